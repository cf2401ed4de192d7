"""The data sets: a name and a folder -> pixels in memory, or the files of images."""

import gzip
import os
import zlib
from collections.abc import Callable, Sequence
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agmax.errors import DataError, DownloadError, UsageError
from agmax.randomness import generator

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the four IDX files."""

VALIDATION_FOLDERS = ("val", "valid", "validation")
"""How the user's own tree may call its validation images; without a folder test they are the test set."""


class Pixels(NamedTuple):
    """Images of one split, whole in memory."""

    images: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]
    class_names: tuple[str, ...]
    indices: Tensor | None = None  # int64 [N], positions in the files of the split; None is 0 to N - 1


class Files(NamedTuple):
    """Images of one split, as files to decode."""

    paths: tuple[str, ...]
    labels: Tensor  # int64 [N]
    class_names: tuple[str, ...]
    indices: Tensor | None = None  # as in Pixels


Split = Pixels | Files


def load(
    name: str, root: str, *, split: str, num_classes: int | None = None, test_share: float = 0.2, seed: int = 0
) -> Split:
    """Load the `train`, `validation` or `test` split of a data set.

    `validation` is there only where the files bring one; else take `held_out` of the training images.

    Raises:
        DataError: the files are missing, empty, or their classes are not `num_classes`.
        DownloadError: the data set could not be downloaded.
        UsageError: the data set has no such split.
    """
    if split == "validation" and name != "folder":
        raise UsageError("no validation split", where=name, remedy="Set dataset.validation to a share, e.g. 0.1")
    loaded: Split
    if name == "folder":
        loaded = _folder(Path(root).expanduser(), split, test_share=test_share, seed=seed)
    else:
        loaded = DATASETS[name](Path(root).expanduser(), split == "train")
    _check(loaded, name, root, split, num_classes)
    return loaded


def subset(data: Split, chosen: Tensor) -> Split:
    """Return the images at the positions `chosen` [M], in that order; they keep their indices."""
    labels, indices = data.labels[chosen], indices_of(data)[chosen]
    if isinstance(data, Pixels):
        return data._replace(images=data.images[chosen], labels=labels, indices=indices)
    return data._replace(paths=tuple(data.paths[i] for i in chosen.tolist()), labels=labels, indices=indices)


def indices_of(data: Split) -> Tensor:
    """Return where each image [N] stands in the files of its split."""
    return torch.arange(len(data.labels)) if data.indices is None else data.indices


def training_and_held_out(labels: Tensor, *, limit: int | None, validation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Choose the positions to train on and those to validate on; no image is in both.

    The first are `limit` images, equally many of each class, or all that are left; the second are the same share of
    every class. Both depend on `seed` and on the labels [N] alone, and while every class has images enough neither
    changes with the size of the other.

    Raises:
        DataError: there are not enough images for both.
    """
    rng = generator(seed, "subset")
    order = torch.from_numpy(rng.permutation(len(labels)))
    held_out = _take(labels, order.flip(0), _shares(labels, round(validation * len(labels))))
    if limit is None:
        keep = torch.ones(len(labels), dtype=torch.bool)
        keep[held_out] = False
        return keep.nonzero().flatten(), held_out
    counts = torch.bincount(labels)
    if limit + len(held_out) > len(labels):
        why = f"{limit} to train on and {len(held_out)} to validate on are asked of {len(labels)} images"
        raise DataError("too few images", where="dataset.train_limit", why=why)
    chosen = _take(labels, order, _equal(counts - torch.bincount(labels[held_out], minlength=len(counts)), limit))
    return chosen, held_out


def _take(labels: Tensor, order: Tensor, wanted: Tensor) -> Tensor:
    """Return the first `wanted[k]` positions of each class k in `order`, sorted."""
    grouped = order[labels[order].argsort(stable=True)].split(torch.bincount(labels).tolist())
    chosen = [group[:count] for group, count in zip(grouped, wanted.tolist(), strict=True)]
    return torch.cat(chosen).sort().values if chosen else torch.empty(0, dtype=torch.int64)


def _shares(labels: Tensor, total: int) -> Tensor:
    """Split `total` over the classes in proportion to their sizes, by largest remainder."""
    exact, whole = torch.bincount(labels) * total, max(len(labels), 1)  # in whole numbers, so that ties are ties
    counts = exact // whole
    counts[(exact % whole).argsort(descending=True, stable=True)[: total - int(counts.sum())]] += 1
    return counts


def _equal(available: Tensor, total: int) -> Tensor:
    """Split `total` as evenly over the classes as what is available allows; the first classes get what is left over."""
    level = total // len(available)
    while int(available.clamp(max=level + 1).sum()) <= total and level < int(available.max()):
        level += 1
    counts = available.clamp(max=level)
    counts[(available > level).nonzero().flatten()[: total - int(counts.sum())]] += 1
    return counts


def _check(data: Split, name: str, root: str, split: str, num_classes: int | None) -> None:
    where = f"{name}, {split}, {Path(root).expanduser().resolve()}"
    if len(data.labels) == 0:
        raise DataError("data set without images", where=where)
    found = len(data.class_names)
    if num_classes is not None and found != num_classes:
        shown = ", ".join(data.class_names[:5]) + (", ..." if found > 5 else "")
        remedy = f"Write dataset.num_classes={found}, or mend the folders"
        raise DataError(
            "wrong number of classes", where=where, why=f"{found} ({shown}), not {num_classes}", remedy=remedy
        )
    if found < 2:
        remedy = "A classifier needs two, each in a folder of its own"
        raise DataError("a single class", where=where, why=f"found {data.class_names[0]} alone", remedy=remedy)
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= found:
        raise DataError(
            "label out of range", where=where, why=f"labels go from {low} to {high}, classes to {found - 1}"
        )


# --- in memory ---------------------------------------------------------------------------------------------------


def _digits(root: Path, train: bool) -> Pixels:
    """Read the embedded digits: columns are 1 for a test image, the label, and 64 gray values from 0 to 16.

    The 360 test images are those of scikit-learn's
    `train_test_split(range(1797), test_size=360, stratify=labels, random_state=0)`.
    """
    text = gzip.decompress(resources.files("agmax.data").joinpath("digits.csv.gz").read_bytes())
    table = np.array([line.split(",") for line in text.decode().splitlines()], dtype=np.int64)
    table = table[table[:, 0] == (0 if train else 1)]
    images = np.rint(table[:, 2:] * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    return Pixels(torch.from_numpy(images), torch.from_numpy(table[:, 1].copy()), tuple("0123456789"))


def _cifar10(root: Path, train: bool) -> Pixels:
    from torchvision import datasets

    return _cifar(datasets.CIFAR10, root, train)


def _cifar100(root: Path, train: bool) -> Pixels:
    from torchvision import datasets

    return _cifar(datasets.CIFAR100, root, train)


def _cifar(kind: type, root: Path, train: bool) -> Pixels:
    data = _fetch(lambda download: kind(root, train=train, download=download), root)
    images = torch.from_numpy(np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)))
    return Pixels(images, torch.tensor(data.targets, dtype=torch.int64), tuple(data.classes))


def _svhn(root: Path, train: bool) -> Pixels:
    parts = [_svhn_split(root, split) for split in (("train", "extra") if train else ("test",))]
    images, labels = torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    return Pixels(images, labels, parts[0].class_names)


def _svhn_core(root: Path, train: bool) -> Pixels:
    return _svhn_split(root, "train" if train else "test")


def _svhn_split(root: Path, split: str) -> Pixels:
    from torchvision import datasets

    data = _fetch(lambda download: datasets.SVHN(root, split=split, download=download), root)
    images = torch.from_numpy(np.ascontiguousarray(data.data))  # MATLAB stores columns first
    return Pixels(images, torch.from_numpy(data.labels.astype(np.int64)), tuple("0123456789"))


def _fashion_mnist(root: Path, train: bool) -> Pixels:
    from torchvision import datasets

    names = tuple(datasets.FashionMNIST.classes)
    prefix = "train" if train else "t10k"
    is_downloaded = (root / "FashionMNIST" / "raw" / f"{prefix}-images-idx3-ubyte").is_file()
    for folder in (root, DEBIAN_FASHION_MNIST):  # files gzipped again have other checksums than torchvision's
        images, labels = folder / f"{prefix}-images-idx3-ubyte.gz", folder / f"{prefix}-labels-idx1-ubyte.gz"
        if images.is_file() and labels.is_file() and not is_downloaded:
            return Pixels(*_idx_pair(images, labels), names)
    data = _fetch(lambda download: datasets.FashionMNIST(root, train=train, download=download), root)
    return Pixels(data.data[:, None], data.targets.long(), names)


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
        raw = gzip.decompress(path.read_bytes())
        if raw[:3] != b"\0\0\x08" or len(raw) < 4:
            raise ValueError("it is no IDX file of bytes")
        shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
        values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(tuple(map(int, shape)))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError("damaged file", where=path, why=str(error)) from error
    return torch.from_numpy(values.copy())


def _fetch(make: Callable[[bool], Any], root: Path) -> Any:
    """Open a torchvision data set, downloading it where it is not there yet."""
    try:
        return make(False)
    except (RuntimeError, OSError) as error:
        if root.exists() and not root.is_dir():
            raise DataError("data folder is a file", where=root) from error
    except (AssertionError, KeyError, TypeError, ValueError) as error:  # as torchvision's readers fail
        why = f"{type(error).__name__}: {error}"
        raise DataError("damaged file", where=root.resolve(), why=why, remedy="Remove what is there") from error
    try:
        return make(True)
    except (RuntimeError, OSError, ValueError, HTTPException) as error:
        why = f"{type(error).__name__}: {error}"
        remedy = f"Where there is no network, put the files into {root.resolve()} as torchvision lays them out"
        raise DownloadError(
            "data set not found and not downloaded", where=root.resolve(), why=why, remedy=remedy
        ) from error


# --- files -------------------------------------------------------------------------------------------------------


def _imagenet(root: Path, train: bool) -> Files:
    files = _tree(root / ("train" if train else "val"))
    if not train and (root / "train").is_dir():
        _check_classes(files, root / "val", root / "train")
    return files


def _imagenet_v2(root: Path, train: bool) -> Files:
    if train:
        raise UsageError("no training split", where="imagenet-v2", why="it is a test set", remedy="Use it with --eval")
    return _tree(root, class_names=[str(k) for k in range(1000)])


def _folder(root: Path, split: str, *, test_share: float, seed: int) -> Files:
    """Read the user's own tree; of a flat one, a share of every class is the test set."""
    folders = split_folders(root)
    if split == "validation" and split not in folders:
        why = "a folder val is the validation set only beside train and test"
        remedy = "Set dataset.validation to a share, e.g. 0.1"
        raise UsageError("no validation split", where=root, why=why, remedy=remedy)
    if not folders:
        whole = _tree(root)
        train, test = training_and_held_out(whole.labels, limit=None, validation=test_share, seed=seed)
        chosen = subset(whole, train if split == "train" else test)
        assert isinstance(chosen, Files)
        return chosen
    if split not in folders:
        names = "train" if split == "train" else " or ".join(("test", *VALIDATION_FOLDERS))
        raise DataError(f"no {split} images", where=root.resolve(), why=f"expected a folder {names}")
    files = _tree(folders[split])
    if split != "train" and "train" in folders:
        _check_classes(files, folders[split], folders["train"])
    return files


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folders of `train`, `validation` and `test` of the user's own tree, none of them for a flat one.

    A tree is flat where none of its folders is called like a split. A folder val is the test set where there is no
    test, and test alone is enough to evaluate.
    """
    there = [name for name in ("train", "test", *VALIDATION_FOLDERS) if (root / name).is_dir()]
    if "train" not in there:
        classes = sorted(set(_class_folders(root)) - set(there))
        if there and classes:
            why = f"it holds {', '.join(there)} beside {', '.join(classes[:3])}, and no train"
            remedy = "Keep splits (train, test, val) or classes there, not both"
            raise DataError("splits and classes in one folder", where=root.resolve(), why=why, remedy=remedy)
        if not there:
            return {}
    found: dict[str, Path] = {name: root / name for name in ("train", "test") if name in there}
    others = [root / name for name in there if name not in found]
    if others:
        found["validation" if len(found) == 2 else "test"] = others[0]
    return found


def _check_classes(files: Files, folder: Path, training: Path) -> None:
    """Compare the classes of `folder` with those of the training images: labels are positions in their list."""
    names = _class_folders(training)
    if names and list(files.class_names) != names:
        differ = ", ".join(sorted(set(names) ^ set(files.class_names))[:5])
        why = f"{len(names)} in {training.name}, {len(files.class_names)} in {folder.name}; they differ in {differ}"
        raise DataError(f"classes of {training.name} and {folder.name} differ", where=folder.resolve(), why=why)


def _class_folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        expected = f"expected {folder}/<class>/<image>"
        raise DataError(
            "data folder not found" if isinstance(error, FileNotFoundError) else "data folder not readable",
            where=folder.resolve(),
            why=f"{error.strerror}; {expected}",
            remedy="Set dataset.root to the folder that holds it",
        ) from error


def _tree(folder: Path, class_names: Sequence[str] | None = None) -> Files:
    """List <folder>/<class>/**/<image>; classes in alphabetical order unless given."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    present = _class_folders(folder)
    names = list(class_names) if class_names is not None else present
    if not present:
        raise DataError("no class folders", where=folder.resolve(), why=f"expected {folder}/<class>/<image>")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(
            os.path.join(base, file)
            for base, _, files in os.walk(folder / name, followlinks=True)
            for file in files
            if file.lower().endswith(IMG_EXTENSIONS) and not file.startswith(".")
        )
        if not found:
            extensions = " ".join(IMG_EXTENSIONS)
            raise DataError("class without images", where=(folder / name).resolve(), why=f"looked for {extensions}")
        paths += found
        labels += [label] * len(found)
    return Files(tuple(paths), torch.tensor(labels, dtype=torch.int64), tuple(names))


DATASETS: dict[str, Callable[[Path, bool], Split]] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "svhn": _svhn,
    "svhn-core": _svhn_core,
    "imagenet": _imagenet,
    "imagenet-v2": _imagenet_v2,
}
"""Every data set but `folder`, which may bring a validation split of its own."""
