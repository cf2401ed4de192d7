"""Photographs drawn by formula, read as training and evaluation read files."""

from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from agmax.core.batch import RawBatch
from agmax.core.errors import DataError
from agmax.data import sampler
from agmax.data.from_files import FileLoader
from agmax.data.splits import FileDataset

Pixels = np.ndarray[Any, Any]


def scene(width: int, height: int, seed: int = 0) -> Pixels:
    """Draw colors that change smoothly, with edges and a little noise [H, W, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(20, 60) + y / rng.uniform(20, 60)) for _ in range(3)]
    edges = 60 * ((x // 37 + y // 53) % 2)
    values = np.stack(waves, -1) * 70 + edges[..., None] + 100 + rng.normal(0, 4, (height, width, 3))
    return values.clip(0, 255).astype(np.uint8)


def files_of(*paths: Path | str) -> FileDataset:
    return FileDataset(tuple(map(str, paths)), torch.arange(len(paths)) % 2, ("even", "odd"))


def stream(data: FileDataset, *, num_workers: int = 0, **options: Any) -> FileLoader:
    given = {"image_size": 16, "channels": 3, "pin_memory": False, **options}
    return FileLoader(data, num_workers=num_workers, **given)


def epoch_of(loader: FileLoader, epoch: int = 0, start: int = 0, *, batch_size: int = 2) -> list[RawBatch]:
    batches = sampler.shuffle_batches(len(loader), batch_size, seed=3, epoch=epoch, start=start)
    return list(loader.batches(batches, epoch=epoch))


def worker_processes(loader: FileLoader) -> list[BaseProcess]:
    """Return the workers that wait for the next epoch."""
    workers = loader._idle_workers
    assert workers is not None
    return [worker.process for worker in workers._workers]


def same(one: list[RawBatch], other: list[RawBatch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


def error_of(samples: Iterator[RawBatch], kind: type[BaseException] = DataError) -> BaseException:
    """Take all samples and return the error they end with, without its traceback: a circle would keep the workers."""
    try:
        for _ in samples:
            pass
    except kind as error:
        return error.with_traceback(None)
    return pytest.fail(f"no {kind.__name__}")


def pixels_of(image: Image.Image) -> Pixels:
    return np.asarray(image)


CROPS = {"random_resized": ([0.08, 1.0], [0.75, 4 / 3]), "num_views": 2, "seed": 11}


def saved(path: Path, image: Image.Image, **options: Any) -> str:
    image.save(path, **options)
    return str(path)


SMALL = ("dataset.image_size=8", "train.batch_size=5", "train.epochs=2", "train.num_workers=0", "augment.crop=none")


def raising(error: BaseException) -> Callable[..., Any]:
    def broken(*_: object, **__: object) -> None:
        raise error

    return broken
