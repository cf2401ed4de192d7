"""The data sets as they lie on disk, their splits, the order of an epoch, and the pixels that are delivered."""

import gzip
import os
import re
import signal
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision import datasets as torchvision_datasets
from torchvision import transforms
from torchvision.transforms import v2

from agmax import builders
from agmax.augment.color import normalised
from agmax.core.batch import RawBatch
from agmax.core.errors import AgmaxError, DataError, DownloadError, UsageError
from agmax.core.rng import seed_for
from agmax.data import datasets, sampler
from agmax.data.from_files import Streaming, decoded
from agmax.data.in_memory import Resident
from agmax.data.splits import Files, Pixels, partition
from agmax.evaluation.metrics import metrics
from agmax.experiments.results import Metrics, lines
from helpers.command import Answer
from helpers.datasets import (  # noqa: F401  one is a fixture
    CPU,
    IMAGENET,
    configured,
    idx,
    random_pixels,
    without_checksums,
    write_cifar,
    write_fashion_mnist,
    write_svhn,
)
from helpers.images import write_images, write_tree
from helpers.places import skip_or_fail

ODD_NAMES = ["a b'c", 'quo"te', "two\nlines", "ünï 类"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every download fail as it does without a network."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", refuse)
    monkeypatch.setattr("agmax.core.download.WAIT", 0.0)


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and deviation of each channel of uint8 images [N, C, H, W], on the scale 0 to 1."""
    values = images.double() / 255
    return values.mean((0, 2, 3)).tolist(), values.std((0, 2, 3), correction=0).tolist()


# --- digits ------------------------------------------------------------------------------------------------------


def test_the_digits_are_those_of_scikit_learn_in_its_stratified_split() -> None:
    published = load_digits()
    train, test = train_test_split(range(1797), test_size=360, stratify=published.target, random_state=0)
    for split, rows in (("train", train), ("test", test)):
        data = datasets.load("digits", "nowhere", split=split)
        assert isinstance(data, Pixels)
        chosen = sorted(rows)
        expected = np.round(published.images[chosen] * 255 / 16).astype(np.uint8)
        np.testing.assert_array_equal(data.images[:, 0].numpy(), expected)
        np.testing.assert_array_equal(data.labels.numpy(), published.target[chosen])
        assert data.class_names == tuple("0123456789")


def test_mean_and_std_of_digits_are_those_of_the_enlarged_training_images() -> None:
    config = configured("digits")
    data = builders.split(config, "train")
    assert isinstance(data, Pixels)
    enlarged = v2.functional.resize(data.images, [32, 32], antialias=True)
    mean, std = channel_statistics(enlarged)
    assert config.dataset.mean == pytest.approx(mean, abs=1e-3)
    assert config.dataset.std == pytest.approx(std, abs=1e-3)


# --- CIFAR and SVHN ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_checksums")
@pytest.mark.parametrize(("name", "num_train"), [("cifar10", 15), ("cifar100", 3)])
def test_cifar_is_read_from_pickled_batches_in_their_order(tmp_path: Path, name: str, num_train: int) -> None:
    written = write_cifar(tmp_path, name)
    for split, count in (("train", num_train), ("test", 3)):
        data = builders.split(configured(name, dataset__root=str(tmp_path)), split)
        pixels, labels = written[split]
        assert isinstance(data, Pixels)
        assert data.images.shape == (count, 3, 32, 32) and data.images.dtype == torch.uint8
        assert torch.equal(data.images, torch.from_numpy(pixels))
        assert data.labels.tolist() == labels
        assert data.class_names[3] == "thing 3"


@pytest.mark.usefixtures("without_checksums")
@pytest.mark.parametrize(
    ("name", "split", "parts"),
    [
        ("svhn", "train", ["train", "extra"]),
        ("svhn-core", "train", ["train"]),
        ("svhn", "test", ["test"]),
        ("svhn-core", "test", ["test"]),
    ],
)
def test_svhn_trains_on_train_and_extra_and_its_core_on_train_alone(
    tmp_path: Path, name: str, split: str, parts: list[str]
) -> None:
    written = write_svhn(tmp_path)
    data = builders.split(configured(name, dataset__root=str(tmp_path)), split)
    assert isinstance(data, Pixels)
    assert np.array_equal(data.images.numpy(), np.concatenate([written[part][0] for part in parts]))
    assert data.labels.tolist() == [digit for part in parts for digit in written[part][1]]
    assert data.images.is_contiguous()
    assert data.class_names == tuple("0123456789")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "svhn-core", "fashion_mnist"])
def test_a_failed_download_ends_with_5_and_names_the_folder(
    run: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "not installed")
    answer = run("--config=ResNet8", "--eval", f"--dataset={name}", "model.pretrained=true", "dataset.root=my data")
    assert answer.status == DownloadError.exit_code == 5
    assert str(tmp_path / "my data") in answer.err and "no network here" in answer.err
    assert not (tmp_path / "my data").exists()
    assert [text.startswith("error:") for text in answer.err.splitlines()].count(True) == 1


# --- Fashion-MNIST -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["root", "Debian's folder"])
def test_fashion_mnist_is_read_from_four_gzipped_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "Debian's folder")
    written = write_fashion_mnist(tmp_path / place)
    (tmp_path / "root" / "FashionMNIST" / "raw").mkdir(parents=True)  # what a failed download leaves
    config = configured("fashion_mnist", dataset__root=str(tmp_path / "root"))
    for split, prefix, labels in (("train", "train", [0, 1, 2, 3, 4]), ("test", "t10k", [7, 8, 9])):
        data = builders.split(config, split)
        assert isinstance(data, Pixels)
        assert np.array_equal(data.images.numpy(), written[prefix][:, None])
        assert data.labels.tolist() == labels
    assert data.class_names[9] == "Ankle boot"


def test_fashion_mnist_as_torchvision_lays_it_out_wins_over_other_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path)
    write_fashion_mnist(tmp_path)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = random_pixels(2, 28, 28, seed=9)
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(pixels))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.array([4, 2], np.uint8)))
    data = datasets.load("fashion_mnist", str(tmp_path), split="train")
    assert isinstance(data, Pixels)
    assert np.array_equal(data.images.numpy(), pixels[:, None]) and data.labels.tolist() == [4, 2]
    (raw / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="damaged file"):
        datasets.load("fashion_mnist", str(tmp_path), split="train")


def test_the_fashion_mnist_of_debians_package_has_the_statistics_of_its_configuration(tmp_path: Path) -> None:
    if not datasets.DEBIAN_FASHION_MNIST.is_dir():
        skip_or_fail("the package dataset-fashion-mnist is not installed")
    config = configured("fashion_mnist", dataset__root=str(tmp_path))
    train, test = builders.split(config, "train"), builders.split(config, "test")
    assert isinstance(train, Pixels) and isinstance(test, Pixels)
    assert train.labels.bincount().tolist() == [6000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    mean, std = channel_statistics(train.images)
    assert config.dataset.mean == pytest.approx(mean, abs=1e-3)
    assert config.dataset.std == pytest.approx(std, abs=1e-3)


PIXELS = "train-images-idx3-ubyte.gz"
LABELS = "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        pytest.param(PIXELS, b"", id="empty"),
        pytest.param(PIXELS, b"<html>please log in</html>", id="no gzip"),
        pytest.param(PIXELS, gzip.compress(idx(random_pixels(5, 28, 28)))[:-20], id="gzip cut off"),
        pytest.param(PIXELS, gzip.compress(b"\0\0\x08"), id="header cut off"),
        pytest.param(PIXELS, gzip.compress(idx(random_pixels(5, 28, 28))[:-1]), id="pixels cut off"),
        pytest.param(PIXELS, gzip.compress(b"\0\0\x0d\x01" + bytes(8)), id="not bytes"),
        pytest.param(PIXELS, gzip.compress(idx(random_pixels(5, 784))), id="not images"),
        pytest.param(LABELS, gzip.compress(idx(np.zeros(4, np.uint8))), id="too few labels"),
        pytest.param(LABELS, gzip.compress(idx(np.full(5, 10, np.uint8))), id="label out of range"),
    ],
)
def test_a_damaged_idx_file_is_an_error_of_the_data(tmp_path: Path, file: str, content: bytes) -> None:
    write_fashion_mnist(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=f"{file}|label out of range"):
        datasets.load("fashion_mnist", str(tmp_path), split="train")


def test_no_flipped_bit_of_a_gzipped_file_goes_unnoticed(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    whole = (tmp_path / LABELS).read_bytes()
    for position in range(10, len(whole)):  # behind the header of gzip, whose time stamp means nothing
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        (tmp_path / LABELS).write_bytes(damaged)
        with pytest.raises(DataError):
            datasets.load("fashion_mnist", str(tmp_path), split="train")


# --- ImageNet and the user's own folders ---------------------------------------------------------------------------


def load_files(name: str, root: Path, split: str, **options: Any) -> Files:
    data = datasets.load(name, str(root), split=split, **options)
    assert isinstance(data, Files)
    return data


def parents(data: Files) -> list[str]:
    """Return the class folder of each image."""
    return [Path(path).parent.name for path in data.paths]


def test_imagenet_is_read_by_folders_in_alphabetical_order(tmp_path: Path) -> None:
    write_tree(tmp_path, ["n02", "n10", "n01"], {"train": 2, "val": 1}, size=(8, 8))
    for split, count in (("train", 2), ("test", 1)):
        data = load_files("imagenet", tmp_path, split)
        folder = torchvision_datasets.ImageFolder(tmp_path / ("train" if split == "train" else "val"))
        assert data.class_names == ("n01", "n02", "n10") == tuple(folder.classes)
        assert list(zip(data.paths, data.labels.tolist(), strict=True)) == folder.samples
        assert len(data.paths) == 3 * count


def test_evaluation_on_imagenet_needs_val_alone(tmp_path: Path) -> None:
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


def test_imagenet_v2_counts_its_folders_as_numbers_and_is_not_trained_on(tmp_path: Path) -> None:
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
def test_val_is_the_test_set_where_there_is_no_other(
    tmp_path: Path, folders: dict[str, int], test: str, validation: str | None
) -> None:
    write_tree(tmp_path, ["a", "b"], folders, size=(8, 8))
    config = configured("folder", dataset__root=str(tmp_path))
    data = builders.splits(config)
    assert builders.counted(config, lambda: data.train).dataset.num_classes == 2
    for part, folder in ((data.train, "train"), (data.test, test), (data.validation, validation)):
        if folder is None:
            assert part is None
            with pytest.raises(UsageError, match="no validation split"):
                builders.split(config, "validation")
        else:
            assert isinstance(part, Files)
            assert {Path(path).parent.parent.name for path in part.paths} == {folder}
            assert parents(part) == ["a"] * folders[folder] + ["b"] * folders[folder]


def test_a_fifth_of_each_class_of_a_flat_tree_is_the_test_set(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a", "b"], {"flat": 10}, size=(8, 8))
    root = str(tmp_path / "flat")
    tests = []
    for seed in (0, 0, 1):
        config = configured("folder", dataset__root=root, dataset__seed=seed, train__seed=5)
        data = builders.splits(config)
        assert isinstance(data.train, Files) and isinstance(data.test, Files)
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


def test_images_of_a_subset_keep_their_places_in_the_files(tmp_path: Path) -> None:
    config = configured("digits", dataset__validation=0.1, dataset__train_limit=200)
    whole, data = builders.split(configured("digits"), "train"), builders.splits(config)
    assert data.validation is not None
    for part in (data.train, data.validation):
        source = builders.test_source(config, part, CPU)
        (sample,) = source.batches([torch.arange(30)], epoch=0)
        assert torch.equal(sample.labels, whole.labels[sample.indices])
        assert sample.indices.tolist() != list(range(30))


def test_a_tree_of_test_images_alone_can_be_evaluated(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("imagenet", lambda root: None, "data folder not found"),
        ("imagenet", lambda root: root.write_text(""), "Not a directory"),
        ("imagenet", lambda root: root.mkdir(), "data folder not found"),
        ("imagenet", lambda root: (root / "train").mkdir(parents=True), "no class folders"),
        ("imagenet", empty_class, "dog"),
        ("imagenet", no_images, "cat"),
        ("folder", lambda root: None, "data folder not found"),
        ("folder", lambda root: root.write_text(""), "Not a directory"),
        ("folder", lambda root: root.mkdir(), "no class folders"),
        ("folder", empty_class, "dog"),
        ("folder", no_images, "cat"),
        ("folder", one_class, "cat alone"),
        ("folder", no_test, "no test images"),
    ],
)
def test_missing_images_end_with_3_and_the_whole_path(
    run: Callable[..., Answer], tmp_path: Path, name: str, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "images")
    before = sorted(tmp_path.rglob("*"))
    answer = run("--config=ResNet8", "--train", f"--dataset={name}", "dataset.root=images", "train.runs_dir=.")
    assert answer.status == 3
    assert message in answer.err
    assert str(tmp_path / "images") in answer.err
    assert sorted(tmp_path.rglob("*")) == before


def test_imagenet_v2_that_is_not_there_shows_what_was_expected(tmp_path: Path) -> None:
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
    (text,) = lines(Metrics(**about, scores=measured, per_class=per_class, robustness={}))
    assert "top3 100.00 %" in text and "top5" not in text


def test_names_with_spaces_quotes_newlines_and_umlauts_are_read(tmp_path: Path) -> None:
    root = tmp_path / ODD_NAMES[2] / ODD_NAMES[0]
    write_tree(root, ODD_NAMES, {"train": 1, ODD_NAMES[3]: 1}, size=(8, 8))
    config = configured("folder", dataset__root=str(root / "train"), dataset__test_share=0.5, train__num_workers=0)
    data = builders.splits(config)
    assert data.train.class_names == tuple(sorted(ODD_NAMES))
    source = builders.test_source(config, data.train, CPU)
    assert sum(len(sample.labels) for sample in source.batches(sampler.in_order(len(source), 2), epoch=0)) == 2
    (root / "train" / ODD_NAMES[2] / "0.png").write_bytes(b"")
    with pytest.raises(DataError) as failure:
        decoded(str(root / "train" / ODD_NAMES[2] / "0.png"), 3)
    assert "\n" not in str(failure.value) and r"two\nlines" in str(failure.value)
    assert "ünï 类" not in str(failure.value)


def test_only_folder_may_bring_a_validation_split() -> None:
    with pytest.raises(UsageError, match=r"dataset\.validation"):
        datasets.load("digits", "nowhere", split="validation")


# --- subset and validation -----------------------------------------------------------------------------------------


def stratified_by_hand(labels: list[int], total: int) -> list[int]:
    """Split `total` over the classes by largest remainder, in whole numbers."""
    counts = [labels.count(k) for k in range(max(labels) + 1)]
    shares = [total * count // len(labels) for count in counts]
    rest = sorted(range(len(counts)), key=lambda k: (-(total * counts[k] % len(labels)), k))
    for k in rest[: total - sum(shares)]:
        shares[k] += 1
    return shares


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=4, max_size=60),
    share=st.integers(0, 7).map(lambda eighths: eighths / 8),
    limit_share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_training_and_validation_images_are_apart_and_spread_evenly_over_the_classes(
    labels: list[int], share: float, limit_share: float, seed: int
) -> None:
    tensor = torch.tensor(labels)
    everything, held_out, _ = partition(tensor, validation=share, seed=seed)
    assert sorted(everything.tolist() + held_out.tolist()) == list(range(len(labels)))
    total = round(share * len(labels))
    assert tensor[held_out].bincount(minlength=max(labels) + 1).tolist() == stratified_by_hand(labels, total)

    limit = max(1, round(limit_share * len(everything))) if len(everything) else None
    if limit is None:
        return
    chosen, same, _ = partition(tensor, limit=limit, validation=share, seed=seed)
    assert torch.equal(same, held_out)  # the limit does not change it
    assert len(chosen) == limit and set(chosen.tolist()) <= set(everything.tolist())
    left = tensor[everything].bincount(minlength=max(labels) + 1).tolist()
    counts = tensor[chosen].bincount(minlength=max(labels) + 1).tolist()
    largest = max(counts)
    for count, available in zip(counts, left, strict=True):
        assert count >= largest - 1 or count == available  # fewer only where there are no more


@settings(deadline=None)
@given(per_class=st.integers(0, 10), other=st.integers(0, 10), seed=st.integers(0, 9))
def test_the_training_images_do_not_change_with_the_size_of_the_validation_set(
    per_class: int, other: int, seed: int
) -> None:
    labels = torch.arange(3).repeat(20)
    limit = 3 * per_class + 1
    one, *_ = partition(labels, limit=limit, validation=0.0, seed=seed)
    two, held_out, _ = partition(labels, limit=limit, validation=3 * min(other, 9) / 60, seed=seed)
    assert torch.equal(one, two)
    assert not set(two.tolist()) & set(held_out.tolist())


def test_another_seed_chooses_other_images() -> None:
    labels = torch.arange(3).repeat(20)
    chosen = [partition(labels, limit=30, validation=0.2, seed=seed) for seed in (0, 0, 1)]
    for part in (0, 1):
        assert torch.equal(chosen[0][part], chosen[1][part])
        assert not torch.equal(chosen[0][part], chosen[2][part])


def test_train_limit_and_validation_reach_the_splits_of_a_configuration() -> None:
    data = builders.splits(configured("digits", dataset__train_limit=100, dataset__validation=0.1))
    whole = datasets.load("digits", "nowhere", split="train")
    assert isinstance(data.train, Pixels) and isinstance(data.validation, Pixels)
    assert data.train.labels.bincount().tolist() == [10] * 10
    assert data.validation.labels.bincount().tolist() == stratified_by_hand(whole.labels.tolist(), 144)
    assert len(data.test.labels) == 360
    assert builders.splits(configured("digits")).validation is None


@pytest.mark.parametrize(
    ("split", "settings"),
    [
        ("train", {"dataset__train_limit": 1437, "dataset__validation": 0.001}),
        ("train", {"dataset__train_limit": 1438}),
        ("train", {"dataset__validation": 0.9999}),
        ("validation", {"dataset__validation": 0.0001}),
        ("train", {"dataset__validation": 1000, "dataset__extra_test": 437}),
        ("test", {"dataset__extra_test": 0.0001}),
        ("test", {"dataset__extra_test": 1438}),
    ],
)
def test_a_split_without_images_or_with_more_than_there_are_is_an_error_of_the_data(
    split: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(DataError):
        builders.split(configured("digits", **settings), split)


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=8, max_size=60),
    shares=st.tuples(st.integers(0, 4), st.integers(0, 4)).map(lambda eighths: (eighths[0] / 8, eighths[1] / 8)),
    limit_share=st.floats(0, 1),
    seeds=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_what_is_kept_apart_for_validation_and_testing_is_one_for_all_seeds(
    labels: list[int], shares: tuple[float, float], limit_share: float, seeds: tuple[int, int]
) -> None:
    tensor, sizes = torch.tensor(labels), [round(share * len(labels)) for share in shares]
    left = len(labels) - sum(sizes)
    if left < 0:
        return  # halves of an odd number can ask for one too many
    limit = max(1, round(limit_share * left)) if left else None
    held = {"validation": shares[0], "extra_test": shares[1], "split_seed": 5}
    one, two = (partition(tensor, limit=limit, seed=seed, **held) for seed in seeds)
    everything = partition(tensor, seed=seeds[0], **held)
    for part in (one, two, everything):
        chosen = [position for positions in part for position in positions.tolist()]
        assert len(set(chosen)) == len(chosen)
        assert torch.equal(part.validation, one.validation) and torch.equal(part.extra_test, one.extra_test)
        assert [positions.tolist() for positions in part] == [sorted(positions.tolist()) for positions in part]
    assert sorted(torch.cat(everything).tolist()) == list(range(len(labels)))
    num_classes = max(labels) + 1
    counts = tensor[one.validation].bincount(minlength=num_classes).tolist()
    assert counts == stratified_by_hand(labels, sizes[0])
    rest = sorted(set(range(len(labels))) - set(one.validation.tolist()))
    if rest:
        wanted = stratified_by_hand([labels[k] for k in rest], sizes[1])
        assert tensor[one.extra_test].bincount(minlength=len(wanted)).tolist()[: len(wanted)] == wanted


def test_a_seed_of_the_split_leaves_the_subset_to_the_other_seed_and_balanced() -> None:
    labels = torch.arange(4).repeat(50)
    held = {"limit": 40, "validation": 30, "extra_test": 20}
    parts = [partition(labels, seed=seed, split_seed=7, **held) for seed in range(3)]
    for part in parts:
        assert [len(positions) for positions in part] == [40, 30, 20]
        assert labels[part.train].bincount().tolist() == [10] * 4
    assert not any(torch.equal(parts[0].train, part.train) for part in parts[1:])
    other = partition(labels, seed=0, split_seed=8, **held)
    assert not torch.equal(other.validation, parts[0].validation)
    assert not torch.equal(other.extra_test, parts[0].extra_test)
    follows, given = (partition(labels, seed=7, split_seed=seed, **held) for seed in (None, 7))
    assert all(torch.equal(one, two) for one, two in zip(follows, given, strict=True))


def test_a_number_of_images_is_the_share_that_they_are() -> None:
    labels = torch.arange(3).repeat(20)
    by_share = partition(labels, limit=12, validation=0.25, extra_test=0.1, seed=3)
    by_number = partition(labels, limit=12, validation=15, extra_test=6, seed=3)
    assert all(torch.equal(one, two) for one, two in zip(by_share, by_number, strict=True))
    assert [len(positions) for positions in partition(labels, validation=1, extra_test=1, seed=3)] == [58, 1, 1]


def test_the_validation_images_do_not_change_with_the_images_to_test_on() -> None:
    labels = torch.arange(3).repeat(40)
    for split_seed in (None, 2):
        parts = [
            partition(labels, limit=30, validation=24, extra_test=extra, seed=1, split_seed=split_seed)
            for extra in (0, 6, 60)
        ]
        assert all(torch.equal(part.validation, parts[0].validation) for part in parts)
        assert set(parts[1].extra_test.tolist()) < set(parts[2].extra_test.tolist())
    with pytest.raises(DataError, match="30 to train on and 91 to keep apart are asked of 120 images"):
        partition(labels, limit=30, validation=24, extra_test=67, seed=1)


HELD = {"dataset__validation": 100, "dataset__extra_test": 0.1, "dataset__train_limit": 200, "dataset__split_seed": 0}


def test_images_kept_apart_for_testing_stand_behind_those_of_the_test_split() -> None:
    test, train = (datasets.load("digits", "nowhere", split=split) for split in ("test", "train"))
    assert isinstance(test, Pixels) and isinstance(train, Pixels)
    measured = []
    for seed in (0, 1):
        config = configured("digits", train__seed=seed, **HELD)
        data = builders.splits(config)
        assert isinstance(data.test, Pixels) and data.test.indices is not None
        extra = data.test.indices[360:] - 360  # positions in the training file
        assert data.test.indices[:360].tolist() == list(range(360)) and len(extra) == 144
        assert torch.equal(data.test.images, torch.cat([test.images, train.images[extra]]))
        assert torch.equal(data.test.labels, torch.cat([test.labels, train.labels[extra]]))
        (sample,) = builders.test_source(config, data.test, CPU).batches([torch.arange(359, 361)], epoch=0)
        assert sample.indices.tolist() == [359, 360 + int(extra[0])]
        alone = builders.split(config, "test")
        assert isinstance(alone, Pixels) and alone.indices is not None
        assert torch.equal(alone.images, data.test.images) and torch.equal(alone.indices, data.test.indices)
        measured.append(data.test.indices)
        for name, part in (("train", data.train), ("validation", data.validation)):
            assert part is not None and part.indices is not None
            assert not set(part.indices.tolist()) & set(extra.tolist())
            split = builders.split(config, name)
            assert split.indices is not None and torch.equal(split.indices, part.indices)
    assert torch.equal(*measured)


def test_files_kept_apart_for_testing_stand_behind_those_of_the_test_folder(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a", "b"], {"train": 10, "test": 3}, size=(8, 8))
    config = configured("folder", dataset__root=str(tmp_path), dataset__extra_test=4, dataset__seed=2)
    data = builders.splits(config)
    assert isinstance(data.test, Files) and isinstance(data.train, Files) and data.test.indices is not None
    whole = load_files("folder", tmp_path, "train")
    assert parents(data.test) == ["a"] * 3 + ["b"] * 3 + ["a"] * 2 + ["b"] * 2
    assert data.test.labels.tolist() == [0] * 3 + [1] * 3 + [0] * 2 + [1] * 2
    assert [whole.paths[index - 6] for index in data.test.indices[6:].tolist()] == list(data.test.paths[6:])
    assert sorted(data.train.paths + data.test.paths[6:]) == sorted(whole.paths)


def fail_on_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    load = datasets.load

    def guarded(name: str, root: str, *, split: str, **options: Any) -> Any:
        assert split != "test", "the test images are read"
        return load(name, root, split=split, **options)

    monkeypatch.setattr(datasets, "load", guarded)


def test_without_an_evaluation_on_them_the_test_images_are_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on_test_images(monkeypatch)
    data = builders.splits(configured("digits", evaluation__test=False, **HELD))
    assert data.test is None
    assert data.validation is not None and len(data.validation.labels) == 100
    with pytest.raises(AssertionError, match="the test images are read"):
        builders.splits(configured("digits", **HELD))


def test_nothing_to_evaluate_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"evaluation\.test.*dataset\.validation=0\.1"):
        configured("digits", evaluation__test=False)
    write_tree(tmp_path, ["a", "b"], {"train": 4, "val": 2, "test": 2}, size=(8, 8))
    config = configured("folder", dataset__root=str(tmp_path), evaluation__test=False)
    data = builders.splits(config)  # the folder brings its own
    assert data.test is None and data.validation is not None and len(data.validation.labels) == 4
    (tmp_path / "test").rename(tmp_path / "other")  # now val is the test set
    with pytest.raises(DataError, match="no validation images"):
        builders.splits(config)


@pytest.mark.parametrize("key", ["dataset__validation", "dataset__extra_test"])
@pytest.mark.parametrize("size", [1.5, 100.25])
def test_what_is_kept_apart_is_a_share_or_a_whole_number(key: str, size: float) -> None:
    with pytest.raises(UsageError, match=f"{size:g} is neither a share nor a number"):
        configured("digits", **{key: size})


def test_the_agmax_statistics_are_the_old_constants() -> None:
    own, agmax = configured("cifar10"), configured("cifar10", dataset__statistics="agmax")
    assert own.normalisation == (own.dataset.mean, own.dataset.std)
    assert agmax.normalisation == ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
    repeated = configured("digits", model__channels=3).normalisation
    assert repeated == ([0.3057] * 3, [0.3235] * 3)
    with pytest.raises(AgmaxError, match="no constants for digits"):
        configured("digits", dataset__statistics="agmax")


# --- order -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_images", range(1, 6))
@pytest.mark.parametrize("batch_size", range(2, 9))
def test_an_epoch_sees_every_image_once_but_a_last_one_alone(num_images: int, batch_size: int) -> None:
    alone = num_images % batch_size == 1
    epochs = [sampler.shuffled(num_images, batch_size, seed=0, epoch=epoch) for epoch in range(20)]
    for batches in epochs:
        assert len(batches) == sampler.num_steps(num_images, batch_size)
        seen = [index for batch in batches for index in batch.tolist()]
        assert len(seen) == len(set(seen)) == num_images - alone
        assert set(seen) <= set(range(num_images))
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert all(len(batch) > 1 for batch in batches)
    if num_images > 2 and epochs[0]:
        assert len({str(batches) for batches in epochs}) > 1  # epochs differ
    tested = [index for batch in sampler.in_order(num_images, batch_size) for index in batch.tolist()]
    assert tested == list(range(num_images))  # an evaluation drops none


def test_an_epoch_continues_where_it_was_interrupted() -> None:
    whole = sampler.shuffled(10, 3, seed=1, epoch=4)
    for start in range(5):
        rest = sampler.shuffled(10, 3, seed=1, epoch=4, start=start)
        assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole[start:]]
    assert str(sampler.shuffled(10, 3, seed=2, epoch=4)) != str(whole)


@pytest.mark.parametrize(("num_images", "steps"), [(1, 0), (2, 1), (4, 1), (5, 1), (8, 2)])
def test_a_training_of_few_images_has_whole_steps_or_ends_with_3(
    run: Callable[..., Answer], tmp_path: Path, num_images: int, steps: int
) -> None:
    for split in ("train", "val"):
        write_images(tmp_path / split / "a", (num_images + 1) // 2, size=(8, 8))
        write_images(tmp_path / split / "b", max(1, num_images // 2), size=(8, 8))
    settings = ["train.epochs=1", "train.batch_size=4", "train.num_workers=0", "dataset.image_size=8"]
    limit = f"dataset.train_limit={num_images}"
    answer = run("--config=ResNet8", "--train", "--dataset=folder", "dataset.root=.", limit, *settings, "--json")
    assert answer.status == (0 if steps else 3)
    assert (f"1 epochs of {steps} steps" if steps else "too few training images") in answer.err


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=50),
    num_views=st.integers(1, 5),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_views_of_a_class_show_every_image_once_a_view_and_none_in_its_own_place(
    labels: list[int], num_views: int, seed: int, epoch: int
) -> None:
    tensor = torch.tensor(labels)
    shown = sampler.same_class(tensor, epoch, num_views=num_views, seed=seed)
    assert shown.shape == (len(labels), num_views)
    assert shown[:, 0].tolist() == list(range(len(labels)))
    for view in range(num_views):
        assert sorted(shown[:, view].tolist()) == list(range(len(labels)))
        assert torch.equal(tensor[shown[:, view]], tensor)
    for image, row in enumerate(shown.tolist()):
        size = labels.count(labels[image])
        assert len(set(row)) == min(num_views, size)  # all of a class before any twice


def test_views_of_a_class_change_with_the_epoch_and_the_seed_alone() -> None:
    labels = torch.arange(3).repeat(20)
    drawn = {
        (seed, epoch): sampler.same_class(labels, epoch, num_views=2, seed=seed)[:, 1]
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(shown.tolist()) for shown in drawn.values()}) == 4
    assert torch.equal(sampler.same_class(labels, 1, num_views=3, seed=1)[:, 1], drawn[1, 1])


def test_partners_of_a_class_are_uniform() -> None:
    """Image 0 of a class of 6 meets each of the five others in 400 of 2000 epochs: four deviations are 72."""
    labels = torch.tensor([0, 1] * 6)
    met = [int(sampler.same_class(labels, epoch, num_views=2, seed=0)[0, 1]) for epoch in range(2000)]
    counts = torch.tensor(met).bincount(minlength=12)
    assert counts[1::2].sum() == 0 and counts[0] == 0
    assert all(abs(int(count) - 400) < 72 for count in counts[2::2])


# --- pixels of evaluation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_pixels_are_torchvisions_bit_for_bit(channels: int) -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, channels, 1, 1)
    images[1] = torch.from_numpy(random_pixels(channels, 16, 16))
    mean, std = (numbers[:channels] for numbers in IMAGENET)
    per_image = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    expected = [per_image(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in images]
    assert torch.equal(normalised(images, torch.tensor(mean), torch.tensor(std)), torch.stack(expected))


def test_gray_pixels_are_repeated_for_a_model_of_three_channels() -> None:
    images = torch.from_numpy(random_pixels(2, 1, 5, 7))
    before = images.clone()
    per_image = transforms.Compose(
        [transforms.Grayscale(num_output_channels=3), transforms.ToTensor(), transforms.Normalize(*IMAGENET)]
    )
    expected = torch.stack([per_image(Image.fromarray(image[0].numpy())) for image in images])
    assert torch.equal(normalised(images, *map(torch.tensor, IMAGENET)), expected)
    assert torch.equal(images, before)


def write_files(root: Path, sizes: list[tuple[int, int]]) -> Files:
    """Write one image of each size; two classes in turn."""
    paths = []
    for number, size in enumerate(sizes):
        write_images(root / str(number), 1, size=size, seed=number)
        paths.append(str(root / str(number) / "0.png"))
    return Files(tuple(paths), torch.arange(len(sizes)) % 2, ("even", "odd"))


def streaming(data: Files, *, num_workers: int = 0, **options: Any) -> Streaming:
    given = {"image_size": 16, "channels": 3, "pin_memory": False, **options}
    return Streaming(data, num_workers=num_workers, **given)


def test_streamed_test_images_are_torchvisions_bit_for_bit(tmp_path: Path) -> None:
    data = write_files(tmp_path, [(77, 53), (53, 77), (51, 51), (19, 333), (1, 1), (48, 47)])
    config = configured(
        "folder", dataset__root=str(tmp_path), dataset__image_size=16, dataset__test_image_size=24, train__num_workers=0
    )
    source = builders.test_source(config, data, CPU)
    (sample,) = source.batches(sampler.in_order(len(data.paths), 10), epoch=0)
    to_image = transforms.Compose([transforms.Resize(24 + 32), transforms.CenterCrop(24)])
    to_input = transforms.Compose([to_image, transforms.ToTensor(), transforms.Normalize(*IMAGENET)])
    originals = []
    for path in data.paths:
        with Image.open(path) as image:
            originals.append(image.convert("RGB"))
    assert sample.images.shape == (6, 3, 24, 24) and sample.images.dtype == torch.uint8
    mean, std = map(torch.tensor, config.normalisation)
    assert torch.equal(normalised(sample.images, mean, std), torch.stack([to_input(image) for image in originals]))
    assert sample.labels.tolist() == [0, 1, 0, 1, 0, 1] and sample.indices.tolist() == list(range(6))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_mode_get_the_channels_of_the_data_set(tmp_path: Path, mode: str, channels: int) -> None:
    original = Image.fromarray(random_pixels(48, 48, 3)).convert(mode)
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    original.save(path)
    source = streaming(Files((str(path),) * 2, torch.tensor([0, 1]), ("a", "b")), channels=channels)
    (sample,) = source.batches([torch.tensor([1, 0])], epoch=0)
    expected = np.asarray(original.convert("RGB" if channels == 3 else "L"))[16:32, 16:32].reshape(16, 16, channels)
    assert sample.images.shape == (2, channels, 16, 16)
    assert np.array_equal(sample.images[0].permute(1, 2, 0).numpy(), expected)  # 48 = 16 + 32: nothing is resized


# --- pixels of training ----------------------------------------------------------------------------------------------


def test_resident_samples_are_the_chosen_images_at_the_configured_size() -> None:
    config = configured("digits", objective__num_views=2)
    data = builders.split(config, "train")
    assert isinstance(data, Pixels)
    source = builders.training_source(config, data, CPU)
    assert isinstance(source, Resident) and len(source) == 1437
    chosen = torch.tensor([5, 1436, 0])
    (sample,) = source.batches([chosen], epoch=3)
    assert sample.images.shape == (3, 1, 32, 32) and sample.images.dtype == torch.uint8
    assert torch.equal(sample.images, v2.functional.resize(data.images[chosen], [32, 32], antialias=True))
    assert torch.equal(sample.labels, data.labels[chosen]) and sample.labels.dtype == torch.int64
    assert torch.equal(sample.indices, chosen)


def test_images_in_memory_are_not_cut_from_files() -> None:
    config = configured("digits", augment__crop="random_resized")
    with pytest.raises(UsageError, match=r"augment\.crop=standard"):
        builders.training_source(config, builders.split(config, "train"), CPU)


def epoch_of(source: Streaming, epoch: int, start: int = 0) -> list[RawBatch]:
    return list(source.batches(sampler.shuffled(len(source), 2, seed=3, epoch=epoch, start=start), epoch=epoch))


def same(one: list[RawBatch], other: list[RawBatch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


@pytest.fixture
def six_files(tmp_path: Path) -> Files:
    return write_files(tmp_path, [(40, 31), (31, 40), (64, 64), (20, 50), (33, 33), (48, 25)])


CROPS = {"random_resized": ([0.08, 1.0], [0.75, 4 / 3]), "num_views": 2, "seed": 11}


def test_training_crops_are_those_of_torchvision_under_the_seed_of_each_sample(six_files: Files) -> None:
    config = configured(
        "folder",
        objective__num_views=2,
        dataset__image_size=16,
        train__num_workers=0,
        train__seed=11,
        augment__crop="random_resized",
    )
    source = builders.training_source(config, six_files, CPU)
    assert isinstance(source, Streaming)
    crop = v2.RandomResizedCrop(16, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    for epoch in (0, 5):
        for sample in epoch_of(source, epoch):
            assert sample.images.shape == (2, 2, 3, 16, 16) and sample.images.dtype == torch.uint8
            assert sample.labels.dtype == sample.indices.dtype == torch.int64
            for views, label, index in zip(sample.images, sample.labels.tolist(), sample.indices.tolist(), strict=True):
                assert label == index % 2
                for view, pixels in enumerate(views):
                    with Image.open(six_files.paths[index]) as image:
                        torch.manual_seed(seed_for(11, "sample", epoch, index, view))
                        assert torch.equal(pixels, crop(v2.functional.pil_to_tensor(image)))


def test_training_crops_differ_between_views_epochs_and_seeds(six_files: Files) -> None:
    first = epoch_of(streaming(six_files, **CROPS), 0)
    assert not any(torch.equal(views[0], views[1]) for sample in first for views in sample.images)
    source, other_seed = streaming(six_files, **CROPS), streaming(six_files, **{**CROPS, "seed": 12})
    everything = torch.arange(6)
    (zero,), (one,) = (list(source.batches([everything], epoch=epoch)) for epoch in (0, 1))
    (other,) = other_seed.batches([everything], epoch=0)
    for changed in (one, other):
        assert not any(torch.equal(a, b) for a, b in zip(zero.images, changed.images, strict=True))


def test_persistent_workers_deliver_what_the_main_process_does_from_any_step_on(six_files: Files) -> None:
    alone, workers = streaming(six_files, **CROPS), streaming(six_files, num_workers=2, **CROPS)
    for epoch, start in ((0, 0), (1, 2), (0, 1)):
        assert same(epoch_of(workers, epoch, start), epoch_of(alone, epoch, start))
    assert same(epoch_of(alone, 1, 2), epoch_of(alone, 1)[2:])
    processes = [worker.pid for worker in workers._loader._iterator._workers]
    next(iter(workers.batches(sampler.shuffled(6, 2, seed=3, epoch=0), epoch=0)))  # an epoch that is given up
    assert same(epoch_of(workers, 2), epoch_of(alone, 2))
    assert [worker.pid for worker in workers._loader._iterator._workers] == processes


def test_workers_outlive_an_interrupt_and_end_when_the_main_process_says_so(six_files: Files) -> None:
    source, alone = streaming(six_files, num_workers=2), streaming(six_files)
    epoch_of(source, 0)
    workers = source._loader._iterator._workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
    assert same(epoch_of(source, 1), epoch_of(alone, 1))
    for worker in workers:
        assert worker.is_alive()
        worker.terminate()
        worker.join(30)
        assert not worker.is_alive()  # else Python would wait for it for ever


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_views_share_one_centre_crop_where_the_crop_is_made_later(six_files: Files, num_workers: int) -> None:
    source = streaming(six_files, num_workers=num_workers, num_views=2)
    for epoch in (0, 1):
        (sample,) = source.batches([torch.arange(6)], epoch=epoch)
        with Image.open(six_files.paths[5]) as image:
            centre = transforms.CenterCrop(16)(transforms.Resize(48)(image))
        assert sample.images.shape == (6, 3, 16, 16)
        assert torch.equal(sample.images[5], v2.functional.pil_to_tensor(centre))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_unreadable_image_is_named_and_the_next_epoch_still_works(six_files: Files, num_workers: int) -> None:
    source = streaming(six_files, num_workers=num_workers)
    path = Path(six_files.paths[4])
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=re.escape(f"image cannot be read ({path})")):
        epoch_of(source, 0)
    path.write_bytes(whole)
    assert sorted(index for sample in epoch_of(source, 0) for index in sample.indices.tolist()) == list(range(6))


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>"),
        lambda path: path.unlink(),
        lambda path: os.replace(path, path.with_suffix(".gone")) or path.mkdir(),
    ],
    ids=["truncated", "empty", "text", "gone", "a folder"],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_a_file_that_is_no_sound_image_is_an_error_of_the_data(
    tmp_path: Path, damage: Callable[[Path], None], suffix: str
) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(random_pixels(40, 40, 3)).save(path)
    assert decoded(str(path), 3).size == (40, 40)
    damage(path)
    with pytest.raises(DataError, match=path.name):
        decoded(str(path), 3)


def test_an_image_of_a_hundred_million_pixels_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (10_000, 10_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"bomb\.png"):
        decoded(str(path), 3)
