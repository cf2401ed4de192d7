"""Load a data set by its name: images in memory, or paths of image files."""

import gzip
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.utils import check_integrity

from agmax.core.download import fetch
from agmax.core.errors import DataError, DownloadError, UsageError
from agmax.data import folders
from agmax.data.splits import Dataset, InMemoryDataset

OF_FILES = {"folder", "imagenet", "imagenet-v2"}
"""Data sets whose images are files of any size; all others are loaded into memory."""

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Folder of the four IDX files of Debian's package dataset-fashion-mnist."""

MAX_IDX_BYTES = 2**28
"""Largest unpacked IDX file that is read; the largest of Fashion-MNIST has a fifth of it."""


def load(name: str, root: str, *, split: str, num_classes: int | None = None, test_fraction: float = 0.2) -> Dataset:
    """Load the `train`, `validation` or `test` split of a data set.

    Only folders can have a `validation` split; otherwise hold out some of the training images.

    Raises:
        DataError: the files are missing, empty, or their classes are not `num_classes`.
        DownloadError: the data set could not be downloaded.
        UsageError: the data set has no such split.
    """
    if split == "validation" and name != "folder":
        raise UsageError("no validation split", where=name, remedy="Set dataset.validation to a fraction, e.g. 0.1")
    data: Dataset
    if name == "folder":
        data = folders.folder(Path(root).expanduser(), split, test_fraction=test_fraction)
    else:
        data = DATASETS[name](Path(root).expanduser(), split == "train")
    _check(data, name, root, split, num_classes)
    return data


def _remove_empty(root: Path) -> None:
    """Remove the empty folders that a failed download leaves behind."""
    for folder, _, files in os.walk(root, topdown=False):
        if not files:
            with suppress(OSError):
                os.rmdir(folder)


def _check(data: Dataset, name: str, root: str, split: str, num_classes: int | None) -> None:
    where = f"{name}, {split}, {Path(root).expanduser().resolve()}"
    if len(data.labels) == 0:
        raise DataError("data set without images", where=where)
    count = len(data.class_names)
    if num_classes is not None and count != num_classes:
        examples = ", ".join(data.class_names[:5]) + (", ..." if count > 5 else "")
        remedy = f"Write dataset.num_classes={count}, or correct the folders"
        raise DataError(
            "wrong number of classes", where=where, why=f"{count} ({examples}), not {num_classes}", remedy=remedy
        )
    if count < 2:
        remedy = "A classifier needs two or more, each in its own folder"
        raise DataError("a single class", where=where, why=f"found only {data.class_names[0]}", remedy=remedy)
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= count:
        raise DataError(
            "label out of range", where=where, why=f"labels go from {low} to {high}, classes to {count - 1}"
        )


def _digits(root: Path, train: bool) -> InMemoryDataset:
    """Read the embedded digits. The columns are 1 for a test image, the label, and 64 gray values from 0 to 16.

    The 360 test images are those of scikit-learn's
    `train_test_split(range(1797), test_size=360, stratify=labels, random_state=0)`.
    """
    text = gzip.decompress(resources.files("agmax.data").joinpath("digits.csv.gz").read_bytes())
    table = np.array([line.split(",") for line in text.decode().splitlines()], dtype=np.int64)
    table = table[table[:, 0] == (0 if train else 1)]
    images = np.rint(table[:, 2:] * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    return InMemoryDataset(torch.from_numpy(images), torch.from_numpy(table[:, 1].copy()), tuple("0123456789"))


def _cifar10(root: Path, train: bool) -> InMemoryDataset:
    from torchvision import datasets

    return _cifar(datasets.CIFAR10, root, train)


def _cifar100(root: Path, train: bool) -> InMemoryDataset:
    from torchvision import datasets

    return _cifar(datasets.CIFAR100, root, train)


def _cifar(kind: Any, root: Path, train: bool) -> InMemoryDataset:
    archive = Archive(kind.url, root / kind.filename, kind.tgz_md5)
    data = _fetch(lambda download: kind(root, train=train, download=download), root, [archive])
    images = torch.from_numpy(np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)))
    return InMemoryDataset(images, torch.tensor(data.targets, dtype=torch.int64), tuple(data.classes))


def _svhn(root: Path, train: bool) -> InMemoryDataset:
    parts = [_svhn_split(root, split) for split in (("train", "extra") if train else ("test",))]
    images, labels = torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    return InMemoryDataset(images, labels, parts[0].class_names)


def _svhn_core(root: Path, train: bool) -> InMemoryDataset:
    return _svhn_split(root, "train" if train else "test")


def _svhn_split(root: Path, split: str) -> InMemoryDataset:
    from torchvision import datasets

    url, name, md5 = datasets.SVHN.split_list[split]
    archive = Archive(url, root / name, md5, magic=b"MATLAB 5.0")
    data = _fetch(lambda download: datasets.SVHN(root, split=split, download=download), root, [archive])
    images = torch.from_numpy(np.ascontiguousarray(data.data))  # MATLAB stores columns first
    return InMemoryDataset(images, torch.from_numpy(data.labels.astype(np.int64)), tuple("0123456789"))


def _fashion_mnist(root: Path, train: bool) -> InMemoryDataset:
    from torchvision import datasets

    names = tuple(datasets.FashionMNIST.classes)
    prefix = "train" if train else "t10k"
    is_downloaded = (root / "FashionMNIST" / "raw" / f"{prefix}-images-idx3-ubyte").is_file()
    for folder in (root, DEBIAN_FASHION_MNIST):  # Debian's gzip files have other checksums than torchvision's
        images, labels = folder / f"{prefix}-images-idx3-ubyte.gz", folder / f"{prefix}-labels-idx1-ubyte.gz"
        if images.is_file() and labels.is_file() and not is_downloaded:
            return InMemoryDataset(*_idx_pair(images, labels), names)
    mirror, raw = datasets.FashionMNIST.mirrors[0], root / "FashionMNIST" / "raw"
    archives = [Archive(mirror + name, raw / name, md5) for name, md5 in datasets.FashionMNIST.resources]
    data = _fetch(lambda download: datasets.FashionMNIST(root, train=train, download=download), root, archives)
    return InMemoryDataset(data.data[:, None], data.targets.long(), names)


def _idx_pair(images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    """Read images [N, 1, H, W] and their labels [N] from two IDX files."""
    pixels, numbers = _idx(images), _idx(labels)
    if pixels.ndim != 3 or numbers.shape != pixels.shape[:1]:
        why = f"its shape is {list(numbers.shape)}, that of {images.name} {list(pixels.shape)}"
        raise DataError("labels do not fit the images", where=labels, why=why)
    return pixels[:, None], numbers.long()


def _idx(path: Path) -> Tensor:
    """Read a gzipped IDX file of bytes: two zeros, type 8, number of axes, their lengths, the values."""
    try:
        with gzip.open(path) as file:
            raw = file.read(MAX_IDX_BYTES + 1)
        if len(raw) > MAX_IDX_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_IDX_BYTES:,} bytes")
        if raw[:3] != b"\0\0\x08" or len(raw) < 4:
            raise ValueError("it is not an IDX file of bytes")
        shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
        values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(tuple(map(int, shape)))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError("damaged file", where=path, why=str(error)) from error
    return torch.from_numpy(values.copy())


class Archive(NamedTuple):
    """A downloadable file of a data set."""

    url: str
    path: Path
    md5: str
    magic: bytes = b"\x1f\x8b"  # gzip's


def _fetch(make: Callable[[bool], Any], root: Path, archives: list[Archive]) -> Any:
    """Open a torchvision data set; download it if it does not exist.

    Torchvision unpacks only the files that it finds with the right checksum.
    """
    existed = root.exists()
    try:
        return make(False)
    except (RuntimeError, OSError) as error:
        if root.exists() and not root.is_dir():
            remedy = "Set dataset.root to a folder"
            raise DataError("data folder is a file", where=root.resolve(), remedy=remedy) from error
    except (AssertionError, KeyError, TypeError, ValueError) as error:  # errors of torchvision's readers
        why = f"{type(error).__name__}: {error}"
        raise DataError("damaged file", where=root.resolve(), why=why, remedy="Remove the files there") from error
    try:
        for archive in archives:
            if not check_integrity(archive.path, archive.md5):
                fetch(archive.url, archive.path, md5=archive.md5, magic=archive.magic)
        return make(True)
    except (DownloadError, RuntimeError, OSError, ValueError) as error:
        if not existed:
            _remove_empty(root)
        why = str(error) if isinstance(error, DownloadError) else f"{type(error).__name__}: {error}"
        remedy = f"Without a network, put the files into {root.resolve()} in torchvision's layout"
        raise DownloadError(
            "data set not found and not downloaded", where=root.resolve(), why=why, remedy=remedy
        ) from error


DATASETS: dict[str, Callable[[Path, bool], Dataset]] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "svhn": _svhn,
    "svhn-core": _svhn_core,
    "imagenet": folders.imagenet,
    "imagenet-v2": folders.imagenet_v2,
}
"""All data sets except `folder`, which may have its own validation split."""
