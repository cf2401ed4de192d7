"""The fingerprint of a data set, by which a resumed training notices that its images have changed."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agmax.data.splits import Dataset, InMemoryDataset

NUM_THREADS, CHUNK = 16, 500
"""Threads that ask for file sizes, and files of one request; in network folders each answer takes long."""

MISSING = -1
"""Stands for the size of a file that is not there; the loader reports it when it reads the image."""


def fingerprint(data: Dataset) -> dict[str, str]:
    """Return checksums (SHA-256, hexadecimal) of the images in their order, equal on every machine.

    Of files: `names`, `sizes` in bytes and `labels`; no file is read. Names are relative to the innermost folder of all
    files, so that a folder can move. Of images in memory: `pixels` and `labels`.
    """
    labels = _checksum(data.labels.cpu().numpy().astype("<i8"))
    if isinstance(data, InMemoryDataset):
        images = np.ascontiguousarray(data.images.cpu().numpy())
        return {"pixels": _checksum(images, about=str(images.shape)), "labels": labels}
    prefix = os.path.commonprefix([min(data.paths), max(data.paths)])  # noqa: RUF071 cut at the last folder below
    folder = prefix.rpartition(os.sep)[0]
    names = b"\0".join(os.fsencode(path[len(folder) :]) for path in data.paths)
    sizes = np.array(_sizes(data.paths), dtype="<i8")
    return {"names": hashlib.sha256(names).hexdigest(), "sizes": _checksum(sizes), "labels": labels}


def _sizes(paths: Sequence[str]) -> list[int]:
    """Return the sizes of files in bytes."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return [size for sizes in pool.map(lambda chunk: [_size(path) for path in chunk], chunks) for size in sizes]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return MISSING


def _checksum(array: NDArray[Any], *, about: str = "") -> str:
    digest = hashlib.sha256(about.encode())
    digest.update(array.data)
    return digest.hexdigest()
