"""Write a checkpoint so that no interruption and no full disk can harm the one before."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from agmax.core.storage import atomic_file

FORMAT, VERSION = "agmax checkpoint", 1
PIECE = 2**20
"""Bytes that are copied at a time."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain types) to `path`: beside it first, verified, then moved into its place.

    Raises:
        OutputError: the folder is full or cannot be written; an older file of this name is untouched.
    """
    with atomic_file(path, verify=_verify) as file:
        torch.save({"format": FORMAT, "version": VERSION, **state}, file)


def copy_checkpoint(source: Path, path: Path) -> None:
    """Copy a checkpoint with the same care.

    Raises:
        OutputError: the folder is full or cannot be written.
    """
    with atomic_file(path) as file, source.open("rb") as original:
        shutil.copyfileobj(original, file, PIECE)


def _verify(path: Path) -> None:
    """Compare what was written with its checksums, at which torch does not look."""
    try:
        with zipfile.ZipFile(path) as archive:
            is_whole = archive.testzip() is None
    except zipfile.BadZipFile:
        is_whole = False
    if not is_whole:
        raise OSError("what was written does not read back")
