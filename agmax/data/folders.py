"""Data sets with one folder for each class: ImageNet's layout and the user's own folders."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from agmax.core.errors import DataError, UsageError
from agmax.data.splits import FileDataset, partition, subset

VALIDATION_FOLDERS = ("val", "valid", "validation")
"""Names of a validation folder in the user's data; without a folder test it is the test set."""


def imagenet(root: Path, train: bool) -> FileDataset:
    """List ImageNet's training or validation images; evaluation needs only <root>/val."""
    files = _tree(root / ("train" if train else "val"))
    if not train and (root / "train").is_dir():
        _check_classes(files, root / "val", root / "train")
    return files


def imagenet_v2(root: Path, train: bool) -> FileDataset:
    """List the images of ImageNet-V2, whose folders are named by the numbers of the classes."""
    if train:
        raise UsageError("no training split", where="imagenet-v2", why="it is a test set", remedy="Use it with --eval")
    return _tree(root, class_names=[str(k) for k in range(1000)])


def folder(root: Path, split: str, *, test_fraction: float) -> FileDataset:
    """List a split of the user's own data.

    Of folders without splits, `test_fraction` of every class is the test set, the same for every seed.

    Raises:
        DataError: the split has no images, or its classes differ from those of train.
        UsageError: there is no validation split.
    """
    folders = split_folders(root)
    if split == "validation" and split not in folders:
        why = "a folder val is the validation set only beside train and test"
        remedy = "Set dataset.validation to a fraction, e.g. 0.1"
        raise UsageError("no validation split", where=root, why=why, remedy=remedy)
    if not folders:
        files = _tree(root)
        parts = partition(files.labels, validation=test_fraction, seed=0)
        chosen = subset(files, parts.train if split == "train" else parts.validation)
        assert isinstance(chosen, FileDataset)
        return chosen
    if split not in folders:
        names = "train" if split == "train" else " or ".join(("test", *VALIDATION_FOLDERS))
        raise DataError(f"no {split} images", where=root.resolve(), why=f"expected a folder {names}")
    files = _tree(folders[split])
    if split != "train" and "train" in folders:
        _check_classes(files, folders[split], folders["train"])
    return files


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folders of `train`, `validation` and `test`, or none if the folder holds the classes directly.

    That is the case if no folder in it has the name of a split. A folder val is the test set if there is no test. A
    folder test alone is enough for an evaluation.

    Raises:
        DataError: the folder holds splits and classes.
    """
    present = [name for name in ("train", "test", *VALIDATION_FOLDERS) if (root / name).is_dir()]
    if "train" not in present:
        classes = sorted(set(_class_folders(root)) - set(present))
        if present and classes:
            why = f"it holds {', '.join(present)} beside {', '.join(classes[:3])}, and no train"
            remedy = "Keep either splits (train, test, val) or classes in it"
            raise DataError("splits and classes in one folder", where=root.resolve(), why=why, remedy=remedy)
        if not present:
            return {}
    splits: dict[str, Path] = {name: root / name for name in ("train", "test") if name in present}
    others = [root / name for name in present if name not in splits]
    if others:
        splits["validation" if len(splits) == 2 else "test"] = others[0]
    return splits


def list_images(folder: Path) -> list[str]:
    """List the images below a folder: those of a folder by name, then those of the folders in it.

    Links are followed. A folder that can be reached in several ways is listed once, by the path without links if there
    is one. Pipes and devices are left out; a link to nothing is listed, so that its reading names it.

    Raises:
        DataError: a folder cannot be read.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    images: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting, linked = [os.fspath(folder)], list[str]()  # stacks: the last is next
    while waiting or linked:
        current = waiting.pop() if waiting else linked.pop()
        try:
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            raise _not_listed(error, "expected images in it") from error
        links = {entry.path for entry in entries if entry.is_symlink()}  # only these need a look at the disk
        waiting += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
        linked += [entry.path for entry in reversed(entries) if entry.path in links and os.path.isdir(entry)]
        images += [
            entry.path
            for entry in entries
            if entry.name.lower().endswith(IMG_EXTENSIONS)
            and entry.name[0] != "."
            and (entry.is_file(follow_symlinks=False) or (entry.path in links and _is_file_or_nothing(entry.path)))
        ]
    return images


def _is_file_or_nothing(link: str) -> bool:
    return os.path.isfile(link) or not os.path.exists(link)


def _check_classes(files: FileDataset, folder: Path, training: Path) -> None:
    """Raise DataError if the classes of `folder` differ from those of train: labels are positions in that list."""
    names = _class_folders(training)
    if names and list(files.class_names) != names:
        differ = ", ".join(sorted(set(names) ^ set(files.class_names))[:5])
        why = f"{len(names)} in {training.name}, {len(files.class_names)} in {folder.name}; they differ in {differ}"
        raise DataError(f"classes of {training.name} and {folder.name} differ", where=folder.resolve(), why=why)


def _class_folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        remedy = "Set dataset.root to the folder that holds it"
        raise _not_listed(error, f"expected {folder}/<class>/<image>", remedy_if_missing=remedy) from error


def _not_listed(error: OSError, expected: str, *, remedy_if_missing: str = "") -> DataError:
    """Return the error of a folder that the system does not list."""
    what = "data folder not found" if isinstance(error, FileNotFoundError) else "data folder not readable"
    where, remedy = Path(error.filename).resolve(), ""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        remedy = remedy_if_missing
    elif isinstance(error, PermissionError):
        remedy = "Let this user read it, or remove it"
    return DataError(what, where=where, why=f"{error.strerror}; {expected}", remedy=remedy)


def _tree(folder: Path, class_names: Sequence[str] | None = None) -> FileDataset:
    """List the images <folder>/<class>/**/<image>; classes are in alphabetical order unless given.

    Two classes that lead to one folder by links have both its images.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    present = _class_folders(folder)
    names = list(class_names) if class_names is not None else present
    if not present:
        raise DataError("no class folders", where=folder.resolve(), why=f"expected {folder}/<class>/<image>")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        images = sorted(list_images(folder / name)) if name in present else []
        if not images:
            extensions = " ".join(IMG_EXTENSIONS)
            raise DataError("class without images", where=(folder / name).resolve(), why=f"looked for {extensions}")
        paths += images
        labels += [label] * len(images)
    return FileDataset(tuple(paths), torch.tensor(labels, dtype=torch.int64), tuple(names))
