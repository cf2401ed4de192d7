"""Links, pipes and devices among the images: every real folder once, plain files only, and no endless wait."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from agmax.core.errors import DataError
from agmax.data.folders import list_images
from agmax.experiments.predict import image_files
from helpers.command import Answer
from helpers.datasets import load_files
from helpers.images import write_images, write_tree
from helpers.streaming import SMALL, error_of, files_of, stream


def names(paths: list[str] | list[Path], root: Path) -> list[str]:
    return [str(Path(path).relative_to(root)) for path in paths]


def test_a_link_to_a_folder_above_lists_no_image_twice(tmp_path: Path) -> None:
    write_tree(tmp_path, ["cat", "dog"], {"train": 3, "val": 1}, size=(8, 8))
    for split in ("train", "val"):
        (tmp_path / split / "cat" / "again").symlink_to(Path("..") / "cat")
        (tmp_path / split / "cat" / "up").symlink_to(tmp_path / split / "cat")
    for name in ("imagenet", "folder"):
        for split, count in (("train", 3), ("test", 1)):
            data = load_files(name, tmp_path, split, **({"test_fraction": 0.2} if name == "folder" else {}))
            assert data.labels.bincount().tolist() == [count, count]
            assert all("again" not in path and "up" not in path for path in data.paths)
    expected = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(3)]
    assert names(image_files([str(tmp_path / "train")]), tmp_path / "train") == expected


def test_linked_folders_and_files_are_read_and_a_real_folder_goes_by_its_own_name(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", 2, size=(8, 8))
    write_images(tmp_path / "class" / "real" / "deep", 1, size=(8, 8))
    (tmp_path / "class" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "class" / "a_link").symlink_to(Path("real") / "deep")
    (tmp_path / "class" / "one.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    found = names(list_images(tmp_path / "class"), tmp_path / "class")
    assert found == ["one.png", "real/deep/0.png", "linked/0.png", "linked/1.png"]


def test_two_classes_that_are_one_folder_both_have_its_images(tmp_path: Path) -> None:
    write_images(tmp_path / "val" / "cat", 2, size=(8, 8))
    (tmp_path / "val" / "dog").symlink_to("cat")
    data = load_files("imagenet", tmp_path, "test")
    assert data.labels.tolist() == [0, 0, 1, 1]


def test_a_pipe_among_the_images_is_left_out_of_a_training_and_a_prediction(
    run: Callable[..., Answer], tmp_path: Path
) -> None:
    write_tree(tmp_path / "data", ["a", "b"], {"train": 4, "val": 1}, size=(9, 9))
    os.mkfifo(tmp_path / "data" / "train" / "a" / "x.jpg")
    (tmp_path / "data" / "train" / "b" / "device.png").symlink_to("/dev/zero")
    assert len(image_files([str(tmp_path / "data" / "train")])) == 8
    answer = run("--config=ResNet8", "--train", "--dataset=folder", "dataset.root=data", *SMALL)
    assert answer.status == 0, answer.err
    assert "8 images" in answer.err


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_has_become_a_pipe_is_named_instead_of_waited_for(tmp_path: Path, num_workers: int) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    loader = stream(files_of(tmp_path / "x.jpg"), num_workers=num_workers)
    message = str(error_of(loader.batches([torch.tensor([0])], epoch=0)))
    assert f"image cannot be read ({tmp_path / 'x.jpg'}): it is not a regular file" in message


@pytest.mark.parametrize("target", ["gone.png", "x.png"])
def test_a_link_to_nothing_is_listed_so_that_its_reading_names_it(tmp_path: Path, target: str) -> None:
    (tmp_path / "x.png").symlink_to(target)
    (path,) = list_images(tmp_path)
    loader = stream(files_of(path))
    assert f"image cannot be read ({path})" in str(error_of(loader.batches([torch.tensor([0])], epoch=0)))


def test_a_circle_of_links_as_a_folder_hides_nothing(tmp_path: Path) -> None:
    write_images(tmp_path / "class", 1, size=(8, 8))
    (tmp_path / "class" / "circle").symlink_to("circle")
    assert names(list_images(tmp_path / "class"), tmp_path / "class") == ["0.png"]


@pytest.mark.parametrize("place", ["class/locked", "locked/class"])
def test_a_folder_that_cannot_be_read_is_an_error_and_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    write_images(tmp_path / place, 1, size=(8, 8))
    scan = os.scandir

    def refuse(path: str) -> object:
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    refused = r"data folder not readable .*(locked|class)\): Permission denied; expected .*\. "
    with pytest.raises(DataError, match=refused + "Let this user read it, or remove it$"):
        load_files("folder", tmp_path / place.partition("/")[0], "test")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nothing", "data folder not found .*: No such file or directory"),
        ("file", "data folder not readable .*: Not a directory"),
    ],
)
def test_only_a_data_set_that_is_missing_asks_for_another_root(tmp_path: Path, kind: str, message: str) -> None:
    if kind == "file":
        (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match=message + r"; expected .*\. Set dataset\.root to the folder that holds it$"):
        load_files("folder", tmp_path / "data", "test")
    with pytest.raises(DataError, match=message + "; expected images in it$"):
        list_images(tmp_path / "data")
