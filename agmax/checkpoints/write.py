"""Write a checkpoint so that no interruption and no full disk can harm the one before."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from agmax.core.errors import OutputError
from agmax.core.storage import put_in_place

FORMAT, VERSION = "agmax checkpoint", 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain types) to `path`: beside it first, verified, then moved into its place.

    Raises:
        OutputError: the folder is full or cannot be written; an older file of this name is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        with zipfile.ZipFile(temporary) as archive:
            if archive.testzip() is not None:
                raise OSError("what was written does not read back")
        put_in_place(temporary, path)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        raise _explained(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def copy(source: Path, path: Path) -> None:
    """Copy a checkpoint with the same care."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        shutil.copyfile(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        put_in_place(temporary, path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what a killed program left half written."""
    for leftover in folder.glob(".*.tmp-*"):
        leftover.unlink(missing_ok=True)


def _explained(error: Exception, path: Path) -> OutputError:
    """Tell a full disk from other faults: torch reports it without an error number."""
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return OutputError("output folder vanished", where=path.parent, why=str(error))
    if free < 64 * 2**20 or "No space left" in str(error):
        remedy = "Free space and give --resume; older checkpoints are intact"
        return OutputError("disk full", where=path, why=f"{free / 2**20:.0f} MiB are free", remedy=remedy)
    return OutputError("checkpoint not written", where=path, why=str(error))
