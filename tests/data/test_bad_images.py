"""Unreadable files: skipped if configured, otherwise an error that names them."""

import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from agmax import builders
from agmax.core.batch import RawBatch
from agmax.core.errors import DataError
from agmax.data import datasets, sampler
from agmax.data.splits import FileDataset
from agmax.training.loop import Trainer
from helpers.command import Answer
from helpers.datasets import CPU, configured
from helpers.images import write_images, write_tree
from helpers.streaming import CROPS, SMALL, epoch_of, error_of, files_of, same, stream


@pytest.fixture
def good(tmp_path: Path) -> Path:
    write_images(tmp_path / "good", 1, size=(20, 20))
    return tmp_path / "good" / "0.png"


def bad_files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"bad{number}.jpg" for number in range(count)]
    for path in paths:
        path.write_bytes(b"\xff\xd8 no photograph")
    return paths


def mixed(good: Path, bad: list[Path], *, total: int) -> FileDataset:
    """Put bad files at every tenth place of a data set."""
    paths = [good] * total
    paths[: 10 * len(bad) : 10] = bad
    return files_of(*paths)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipped_images_are_left_out_and_named_once(
    tmp_path: Path, good: Path, caplog: pytest.LogCaptureFixture, num_workers: int
) -> None:
    bad = bad_files(tmp_path, 2)
    data = mixed(good, bad, total=250)
    loader = stream(data, num_workers=num_workers, skip_bad_images=True, **CROPS)
    alone = stream(data, skip_bad_images=True, **CROPS)
    full = stream(data._replace(paths=(str(good),) * 250), **CROPS)
    with caplog.at_level(logging.WARNING, "agmax"):
        found = epoch_of(loader, batch_size=60)
        messages = [record.getMessage() for record in caplog.records]
        again = epoch_of(loader, epoch=1, batch_size=60)
    assert len(messages) == 2 == len(caplog.records)
    assert all(sum(str(path) in message for message in messages) == 1 for path in bad)
    assert same(found, epoch_of(alone, batch_size=60))
    assert sum(len(batch.labels) for batch in found) == 248 == sum(len(batch.labels) for batch in again)
    for batch, expected in zip(found, epoch_of(full, batch_size=60), strict=True):
        kept = ~torch.isin(expected.indices, torch.tensor([0, 10]))
        assert same([batch], [RawBatch(*(column[kept] for column in expected))])


@pytest.mark.parametrize(
    ("num_bad", "total", "is_refused"), [(1, 30, False), (2, 200, False), (2, 199, True), (3, 250, True)]
)
def test_more_than_one_percent_of_bad_images_ends_a_training(
    tmp_path: Path, good: Path, num_bad: int, total: int, is_refused: bool
) -> None:
    bad = bad_files(tmp_path, num_bad)
    loader = stream(mixed(good, bad, total=total), skip_bad_images=True)
    batches = sampler.sequential_batches(total, 50)
    if not is_refused:
        assert sum(len(batch.labels) for batch in loader.batches(batches, epoch=0)) == total - num_bad
        return
    message = str(error_of(loader.batches(batches, epoch=0)))
    assert f"too many images cannot be read ({num_bad} of {total}" in message
    assert all(str(path) in message for path in bad)


@pytest.mark.parametrize(("positions", "left"), [([0], 0), ([0, 5], 1), ([0, 5, 6], 2), ([5], 1)])
def test_a_single_readable_image_is_returned_twice_and_none_is_an_error(
    tmp_path: Path, good: Path, positions: list[int], left: int
) -> None:
    loader = stream(mixed(good, bad_files(tmp_path, 1), total=20), skip_bad_images=True)
    batches = loader.batches([torch.tensor(positions)], epoch=0)
    if left:
        batch = next(batches)
        expected = [5, 5] if positions == [0, 5] else [position for position in positions if position]
        assert batch.indices.tolist() == expected and len(batch.images) == len(batch.labels) == len(expected)
        return
    with pytest.raises(DataError, match=r"batch without images .*bad0\.jpg"):
        next(batches)


def test_without_skipping_and_in_evaluations_a_bad_image_is_an_error(tmp_path: Path, good: Path) -> None:
    data = mixed(good, bad_files(tmp_path, 1), total=20)
    skipping = configured("folder", train__num_workers=0, dataset__on_bad_image="skip", dataset__image_size=16)
    assert configured("folder").dataset.on_bad_image == "error"
    for loader in (
        builders.training_loader(configured("folder", train__num_workers=0, dataset__image_size=16), data, CPU),
        builders.test_loader(skipping, data, CPU),
    ):
        with pytest.raises(DataError, match=r"image cannot be read .*bad0\.jpg"):
            list(loader.batches([torch.arange(20)], epoch=0))
    (batch,) = builders.training_loader(skipping, data, CPU).batches([torch.arange(20)], epoch=0)
    assert len(batch.labels) == 19


def test_a_training_counts_its_images_and_logs_a_bad_one_once(
    run: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "data", ["a", "b"], {"train": 5, "val": 2}, size=(9, 9))
    (tmp_path / "data" / "train" / "b" / "3.png").write_bytes(b"")
    seen, finish = [], Trainer.finish_epoch

    def spy(self: Trainer, *, seconds: float, num_images: int) -> None:
        seen.append((num_images, self.sums["num_images"]))
        finish(self, seconds=seconds, num_images=num_images)

    monkeypatch.setattr(Trainer, "finish_epoch", spy)
    words = ("--config=ResNet8", "--train", "--dataset=folder", "dataset.root=data", *SMALL)
    answer = run(*words, "dataset.on_bad_image=skip", "--json")
    assert answer.status == 0, answer.err
    assert seen == [(9, 9), (9, 9)]
    log = (tmp_path / answer.json["run_folder"] / "train.log").read_text()
    assert log.count("skipped: image cannot be read") == 1 and str(Path("b") / "3.png") in log
    failed = run(*words)
    assert failed.status == 3 and str(Path("train") / "b" / "3.png") in failed.err


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("side", [20_000, 10_000])
def test_a_small_file_of_a_huge_image_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )
    assert len(content) < 200
    (tmp_path / "bomb.png").write_bytes(content)
    loader = stream(files_of(tmp_path / "bomb.png"), **CROPS, scaled_decoding=True)
    with pytest.raises(DataError, match=r"bomb\.png.*decompression bomb"):
        next(loader.batches([torch.tensor([0])], epoch=0))


def test_the_shadow_files_of_a_mac_are_not_listed(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a", "b"], {"train": 2, "val": 1}, size=(8, 8))
    (tmp_path / "train" / "a" / "._0.jpg").write_bytes(b"\0\5\x16\7 Mac OS X")
    data = datasets.load("folder", str(tmp_path), split="train", test_fraction=0.2)
    assert isinstance(data, FileDataset)
    assert [Path(path).name for path in data.paths] == ["0.png", "1.png"] * 2
