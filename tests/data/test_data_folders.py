"""ImageNet and the user's own folders on disk."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import datasets as torchvision_datasets

from agmax import builders
from agmax.core.errors import DataError, UsageError
from agmax.data import datasets, sampler
from agmax.data.from_files import decode_image
from agmax.data.splits import FileDataset
from agmax.evaluation.metrics import metrics
from agmax.experiments.results import Metrics, format_lines
from helpers.command import Answer
from helpers.datasets import CPU, configured, load_files, parents
from helpers.images import write_images, write_tree

ODD_NAMES = ["a b'c", 'quo"te', "two\nlines", "ünï 类"]


def test_imagenet_is_read_by_folders_in_alphabetical_order(tmp_path: Path) -> None:
    write_tree(tmp_path, ["n02", "n10", "n01"], {"train": 2, "val": 1}, size=(8, 8))
    for split, count in (("train", 2), ("test", 1)):
        data = load_files("imagenet", tmp_path, split)
        folder = torchvision_datasets.ImageFolder(tmp_path / ("train" if split == "train" else "val"))
        assert data.class_names == ("n01", "n02", "n10") == tuple(folder.classes)
        assert list(zip(data.paths, data.labels.tolist(), strict=True)) == folder.samples
        assert len(data.paths) == 3 * count


def test_evaluation_on_imagenet_needs_only_val(tmp_path: Path) -> None:
    write_tree(tmp_path, ["n01", "n02"], {"val": 1}, size=(8, 8))
    assert parents(load_files("imagenet", tmp_path, "test")) == ["n01", "n02"]
    with pytest.raises(DataError, match="data folder not found"):
        load_files("imagenet", tmp_path, "train")


@pytest.mark.parametrize(("name", "test_folder"), [("imagenet", "val"), ("folder", "test"), ("folder", "valid")])
def test_differing_class_names_are_shown_before_training(
    run: Callable[..., Answer], tmp_path: Path, name: str, test_folder: str
) -> None:
    write_tree(tmp_path, ["cat", "dog"], {"train": 1}, size=(8, 8))
    write_tree(tmp_path, ["cat", "wolf"], {test_folder: 1}, size=(8, 8))
    flags = (f"--dataset={name}", "dataset.root=.", "dataset.num_classes=2")
    answer = run("--config=ResNet8", "--train", *flags)
    assert answer.status == 3
    assert "dog, wolf" in answer.err and str(tmp_path / test_folder) in answer.err
    assert not list(tmp_path.glob("runs/*"))


def test_imagenet_v2_sorts_its_folders_by_number_and_has_no_training_split(tmp_path: Path) -> None:
    write_images(tmp_path / "0", 1, size=(1, 1))
    pixel = (tmp_path / "0" / "0.png").read_bytes()
    for number in range(1, 1000):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "0.png").write_bytes(pixel)
    data = load_files("imagenet-v2", tmp_path, "test", num_classes=1000)
    assert parents(data) == [str(number) for number in range(1000)]
    assert data.labels.tolist() == list(range(1000))
    with pytest.raises(UsageError, match="no training split"):
        load_files("imagenet-v2", tmp_path, "train")


@pytest.mark.parametrize(
    ("folders", "test", "validation"),
    [
        ({"train": 3, "test": 2}, "test", None),
        ({"train": 3, "val": 2}, "val", None),
        ({"train": 3, "validation": 2}, "validation", None),
        ({"train": 4, "val": 3, "test": 2}, "test", "val"),
        ({"train": 4, "valid": 3, "test": 2}, "test", "valid"),
    ],
)
def test_val_is_the_test_set_without_a_folder_test(
    tmp_path: Path, folders: dict[str, int], test: str, validation: str | None
) -> None:
    write_tree(tmp_path, ["a", "b"], folders, size=(8, 8))
    config = configured("folder", dataset__root=str(tmp_path))
    data = builders.splits(config)
    assert builders.with_num_classes(config, lambda: data.train).dataset.num_classes == 2
    for part, folder in ((data.train, "train"), (data.test, test), (data.validation, validation)):
        if folder is None:
            assert part is None
            with pytest.raises(UsageError, match="no validation split"):
                builders.split(config, "validation")
        else:
            assert isinstance(part, FileDataset)
            assert {Path(path).parent.parent.name for path in part.paths} == {folder}
            assert parents(part) == ["a"] * folders[folder] + ["b"] * folders[folder]


def test_without_splits_a_fifth_of_each_class_is_the_test_set(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a", "b"], {"flat": 10}, size=(8, 8))
    root = str(tmp_path / "flat")
    tests = []
    for seed in (0, 0, 1):
        config = configured("folder", dataset__root=root, dataset__seed=seed, train__seed=5)
        data = builders.splits(config)
        assert isinstance(data.train, FileDataset) and isinstance(data.test, FileDataset)
        assert data.train.labels.bincount().tolist() == [8, 8]
        assert data.test.labels.bincount().tolist() == [2, 2]
        both = sorted(data.train.paths + data.test.paths)
        assert both == sorted(str(path) for path in (tmp_path / "flat").rglob("*.png"))
        tests.append(data.test.paths)
    assert tests[0] == tests[1] == tests[2]  # runs of several seeds are measured on the same images


def test_splits_beside_classes_are_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a", "b"], {"training": 1, "test": 1}, size=(8, 8))
    with pytest.raises(DataError, match="it holds test beside training, and no train"):
        builders.splits(configured("folder", dataset__root=str(tmp_path)))


def test_images_of_a_subset_keep_their_indices(tmp_path: Path) -> None:
    config = configured("digits", dataset__validation=0.1, dataset__train_limit=200)
    full, data = builders.split(configured("digits"), "train"), builders.splits(config)
    assert data.validation is not None
    for part in (data.train, data.validation):
        loader = builders.test_loader(config, part, CPU)
        (batch,) = loader.batches([torch.arange(30)], epoch=0)
        assert torch.equal(batch.labels, full.labels[batch.indices])
        assert batch.indices.tolist() != list(range(30))


def test_a_folder_with_only_test_images_can_be_evaluated(tmp_path: Path) -> None:
    for name in ("test", "val"):
        root = write_tree(tmp_path / name, ["a", "b"], {name: 2}, size=(8, 8))
        config = configured("folder", dataset__root=str(root))
        assert builders.split(config, "test").class_names == ("a", "b")
        with pytest.raises(DataError, match="no train images"):
            builders.split(config, "train")


def empty_class(root: Path) -> None:
    write_tree(root, ["cat"], {"train": 1, "val": 1}, size=(8, 8))
    (root / "train" / "dog").mkdir()


def no_images(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
        (root / "train" / name / "notes.txt").write_text("no image")
        (root / "train" / name / "._1.jpg").write_text("what macOS leaves")


def one_class(root: Path) -> None:
    write_tree(root, ["cat"], {"train": 2, "val": 2}, size=(8, 8))


def no_test(root: Path) -> None:
    write_tree(root, ["cat", "dog"], {"train": 2}, size=(8, 8))


def one_level_too_high(root: Path) -> None:
    write_tree(root / "pets", ["cat", "dog"], {"train": 2, "val": 2}, size=(8, 8))


def one_level_too_low(root: Path) -> None:
    write_images(root, 2, size=(8, 8))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("imagenet", lambda root: None, "data folder not found"),
        ("imagenet", lambda root: root.write_text(""), "Not a directory"),
        ("imagenet", lambda root: root.mkdir(), "data folder not found"),
        ("imagenet", lambda root: (root / "train").mkdir(parents=True), "no class folders"),
        ("imagenet", empty_class, "dog"),
        ("imagenet", no_images, "cat"),
        ("imagenet", one_level_too_high, "expected images/train/<class>/<image>"),
        ("imagenet", one_level_too_low, "expected images/train/<class>/<image>"),
        ("folder", lambda root: None, "data folder not found"),
        ("folder", lambda root: root.write_text(""), "Not a directory"),
        ("folder", lambda root: root.mkdir(), "no class folders"),
        ("folder", empty_class, "dog"),
        ("folder", no_images, "cat"),
        ("folder", one_class, "found only cat"),
        ("folder", no_test, "no test images"),
        ("folder", one_level_too_high, "found only pets"),
        ("folder", one_level_too_low, "expected images/<class>/<image>"),
        ("cifar10", lambda root: root.write_text(""), "data folder is a file"),
    ],
)
def test_missing_images_end_with_3_and_the_full_path(
    run: Callable[..., Answer], tmp_path: Path, name: str, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "images")
    before = sorted(tmp_path.rglob("*"))
    answer = run("--config=ResNet8", "--train", f"--dataset={name}", "dataset.root=images", "train.runs_dir=.")
    assert answer.status == 3 and answer.err.count("error: ") == 1
    assert message in answer.err
    assert str(tmp_path / "images") in answer.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("locked", ["train", "train/cat", "train/cat/inner"])
def test_a_folder_that_may_not_be_read_is_named_and_not_taken_for_an_empty_one(
    run: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: str
) -> None:
    write_tree(tmp_path / "images", ["cat", "dog"], {"train": 2, "val": 2}, size=(8, 8))
    (tmp_path / "images" / "train" / "cat" / "inner").mkdir()
    original, folder = os.scandir, tmp_path / "images" / locked

    def refusing(path: Any = ".") -> Any:
        if os.path.abspath(path) == str(folder):  # permissions do not hold for root, who may run this
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", refusing)
    answer = run("--config=ResNet8", "--train", "--dataset=folder", "dataset.root=images")
    assert answer.status == 3
    assert f"data folder not readable ({folder}): Permission denied; expected " in answer.err
    assert not list(tmp_path.glob("runs/*"))


def test_a_missing_imagenet_v2_shows_the_expected_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data folder not found .*expected .*<class>/<image>"):
        load_files("imagenet-v2", tmp_path / "absent", "test")


@pytest.mark.parametrize("wanted", [2, 4])
def test_another_number_of_classes_than_configured_ends_with_3(
    run: Callable[..., Answer], tmp_path: Path, wanted: int
) -> None:
    write_tree(tmp_path, ["cat", "dog", "emu"], {"train": 1, "val": 1}, size=(8, 8))
    words = ("--config=ResNet8", "--train", "--dataset=folder", "dataset.root=.", f"dataset.num_classes={wanted}")
    answer = run(*words)
    assert answer.status == 3
    assert f"3 (cat, dog, emu), not {wanted}" in answer.err and "dataset.num_classes=3" in answer.err


def test_three_classes_have_a_top3_instead_of_a_top5() -> None:
    logits, labels = torch.eye(3).repeat(2, 1), torch.tensor([0, 1, 2, 1, 2, 0])
    measured = metrics(logits, labels)
    assert measured["top1"] == pytest.approx(50) and measured["top5"] == 100
    per_class = dict.fromkeys(("a", "b", "c"), 50.0)
    about: dict[str, Any] = {"config": "", "run_folder": None, "checkpoint": None, "images_per_second": None}
    about |= {"split": "test", "dataset": "folder", "num_images": 6, "seed": 0, "epochs": 1, "seconds": 1.0}
    (text,) = format_lines(Metrics(**about, values=measured, per_class=per_class, robustness={}))
    assert "top3 100.00 %" in text and "top5" not in text


def test_names_with_spaces_quotes_newlines_and_umlauts_are_read(tmp_path: Path) -> None:
    root = tmp_path / ODD_NAMES[2] / ODD_NAMES[0]
    write_tree(root, ODD_NAMES, {"train": 1, ODD_NAMES[3]: 1}, size=(8, 8))
    config = configured("folder", dataset__root=str(root / "train"), dataset__test_fraction=0.5, train__num_workers=0)
    data = builders.splits(config)
    assert data.train.class_names == tuple(sorted(ODD_NAMES))
    loader = builders.test_loader(config, data.train, CPU)
    assert sum(len(batch.labels) for batch in loader.batches(sampler.sequential_batches(len(loader), 2), epoch=0)) == 2
    (root / "train" / ODD_NAMES[2] / "0.png").write_bytes(b"")
    with pytest.raises(DataError) as failure:
        decode_image(str(root / "train" / ODD_NAMES[2] / "0.png"), 3)
    assert "\n" not in str(failure.value) and r"two\nlines" in str(failure.value)
    assert "ünï 类" not in str(failure.value)


def test_only_folder_can_have_its_own_validation_split() -> None:
    with pytest.raises(UsageError, match=r"dataset\.validation"):
        datasets.load("digits", "nowhere", split="validation")
