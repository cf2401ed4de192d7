"""Write a checkpoint so that an interruption or a full disk cannot damage the previous one."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from agmax.core.errors import CheckpointError
from agmax.core.storage import atomic_file

FORMAT, VERSION = "agmax checkpoint", 2
"""A change of the entries of a checkpoint needs a new version, and a function in read.UPGRADES for the one before."""

PIECE = 2**20
"""Number of bytes that are copied at a time."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain types) to a temporary file, verify it, and move it to `path`.

    Raises:
        OutputError: the disk is full or cannot be written; an existing file is not changed.
    """
    with atomic_file(path, verify=_verify) as file:
        torch.save({"format": FORMAT, "version": VERSION, **state}, file)


def copy_checkpoint(source: Path, path: Path) -> None:
    """Copy a checkpoint atomically.

    Raises:
        CheckpointError: the source cannot be opened.
        OutputError: the disk is full or cannot be written.
    """
    try:
        original = source.open("rb")
    except OSError as error:
        raise CheckpointError("cannot read the checkpoint", where=source, why=error.strerror or str(error)) from error
    with original, atomic_file(path) as file:
        shutil.copyfileobj(original, file, PIECE)


def _verify(path: Path) -> None:
    """Check the checksums of a written file, which torch does not do; raise OSError if one is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            is_intact = archive.testzip() is None
    except zipfile.BadZipFile:
        is_intact = False
    if not is_intact:
        raise OSError("the written file cannot be read back")
