"""The fingerprint of a data set: what changes it, what does not, and what it costs."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agmax.data.fingerprint import MISSING, NUM_THREADS, fingerprint
from agmax.data.folders import imagenet
from agmax.data.splits import FileDataset, InMemoryDataset, subset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with files of 0 to 4 bytes in two classes, whose names begin alike."""
    for number in range(10):
        path = tmp_path / "here" / "train" / ("cat", "catfish")[number % 2] / "deep" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (number % 5))
    return tmp_path / "here"


def differing(first: dict[str, str], second: dict[str, str]) -> set[str]:
    assert first.keys() == second.keys()
    return {key for key in first if first[key] != second[key]}


def test_a_folder_that_has_moved_or_been_copied_has_the_same_fingerprint(root: Path, tmp_path: Path) -> None:
    before = fingerprint(imagenet(root, train=True))
    shutil.copytree(root, tmp_path / "a longer place" / "copy")
    os.utime(root / "train" / "cat" / "deep" / "0.png", (0, 0))
    assert fingerprint(imagenet(tmp_path / "a longer place" / "copy", train=True)) == before
    root.rename(tmp_path / "moved")
    assert fingerprint(imagenet(tmp_path / "moved", train=True)) == before


def grow(root: Path) -> None:
    (root / "train" / "cat" / "deep" / "2.png").write_bytes(b"more bytes")


def empty(root: Path) -> None:
    (root / "train" / "cat" / "deep" / "2.png").write_bytes(b"")


def rename(root: Path) -> None:
    (root / "train" / "cat" / "deep" / "2.png").rename(root / "train" / "cat" / "deep" / "20.png")


def swap(root: Path) -> None:
    one, other = (root / "train" / name for name in ("cat/deep/2.png", "catfish/deep/3.png"))
    one.rename(root / "a"), other.rename(one), (root / "a").rename(other)


def relabel(root: Path) -> None:
    (root / "train" / "cat" / "deep" / "8.png").rename(root / "train" / "catfish" / "deep" / "0.png")


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (grow, {"sizes"}),
        (empty, {"sizes"}),
        (swap, {"sizes"}),
        (rename, {"names"}),
        (relabel, {"names", "labels"}),
    ],
)
def test_files_that_have_changed_have_another_fingerprint(
    root: Path, change: Callable[[Path], None], keys: set[str]
) -> None:
    before = fingerprint(imagenet(root, train=True))
    change(root)
    assert differing(before, fingerprint(imagenet(root, train=True))) == keys


def test_files_in_another_order_have_another_fingerprint(root: Path) -> None:
    data = imagenet(root, train=True)
    order = torch.tensor([1, 0, *range(2, 10)])
    assert differing(fingerprint(data), fingerprint(subset(data, order))) == {"names", "sizes"}


def test_a_file_that_is_not_there_has_a_size_of_its_own(root: Path) -> None:
    assert MISSING < 0
    data = imagenet(root, train=True)
    before = fingerprint(data)
    (root / "train" / "cat" / "deep" / "0.png").unlink()  # of zero bytes
    assert differing(before, fingerprint(data)) == {"sizes"}


def test_the_common_beginning_of_names_counts_and_that_of_folders_does_not() -> None:
    labels = torch.tensor([0, 1])
    one, other, moved = (
        fingerprint(FileDataset((f"{name}1", f"{name}2"), labels, ("a", "b")))
        for name in ("/d/image", "/d/picture", "/d/d/image")
    )
    assert differing(one, other) == {"names"} and one == moved


def test_names_that_are_not_utf8_have_a_fingerprint() -> None:
    labels = torch.tensor([0, 1])
    one, other = (FileDataset((f"/d/a\udcff{end}", "/d/b"), labels, ("a", "b")) for end in "xy")
    assert differing(fingerprint(one), fingerprint(other)) == {"names"}


def test_images_in_memory_are_told_apart_by_every_pixel_their_shape_and_labels() -> None:
    images, labels = torch.arange(96, dtype=torch.uint8).reshape(4, 1, 4, 6), torch.tensor([0, 1, 0, 1])
    data = InMemoryDataset(images, labels, ("a", "b"))
    before = fingerprint(data)
    assert fingerprint(data._replace(images=images.clone(), indices=torch.arange(4))) == before
    columns_first = images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert fingerprint(data._replace(images=columns_first)) == before
    changed = images.clone()
    changed[3, 0, 3, 5] += 1
    for other in (changed, images.reshape(4, 1, 6, 4), images.flip(0)):
        assert differing(before, fingerprint(data._replace(images=other))) == {"pixels"}
    assert differing(before, fingerprint(data._replace(labels=labels.flip(0)))) == {"labels"}


def test_file_sizes_are_asked_for_many_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a network folder an answer takes a millisecond: one after another, a million of them take twenty minutes."""
    original, delay = os.stat, 1e-3

    def slow(path: str, **more: Any) -> os.stat_result:
        time.sleep(delay)
        return original(path, **more)

    count = 500 * NUM_THREADS
    data = FileDataset((str(tmp_path),) * count, torch.zeros(count, dtype=torch.int64), ("a", "b"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", slow)
        start = time.perf_counter()
        fingerprint(data)
        seconds = time.perf_counter() - start
    assert seconds < count * delay / 3
