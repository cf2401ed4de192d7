"""Save a checkpoint in a process of its own, which signal 9 ends in the middle of it."""

import os
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from agmax.training.checkpoint_folder import CheckpointFolder
from helpers.processes import CONTEXT

_REMOVE = Path.unlink


def state(step: int) -> dict[str, Any]:
    return {"step": step, "model": {"weight": torch.full((200, 50), float(step))}}


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _write_half(value: Any, file: Any) -> None:
    file.write(bytes(5000))
    file.flush()
    _die()


def _remove_only_hidden(path: Path, missing_ok: bool = False) -> None:
    _REMOVE(path, missing_ok=missing_ok) if path.name.startswith(".") else _die()


def _and_die(original: Callable[..., Any]) -> Callable[..., Any]:
    def done(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        _die()

    return done


INSTANTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "before the first byte": (torch, "save", _die),
    "in the middle of the file": (torch, "save", _write_half),
    "after the last byte": (torch, "save", _and_die(torch.save)),
    "before it is synced": (os, "fsync", _die),
    "before it is verified": (zipfile.ZipFile, "testzip", _die),
    "before it is put in place": (os, "replace", _die),
    "after it is put in place": (os, "replace", _and_die(os.replace)),
    "before the oldest is removed": (Path, "unlink", _remove_only_hidden),
}
"""What is replaced in the process, and by what, so that it ends at that instant of a save."""


def _save(folder: Path, step: int, instant: str) -> None:
    owner, name, replacement = INSTANTS[instant]
    setattr(owner, name, replacement)
    CheckpointFolder(folder).save(step, state(step))


def save_and_be_killed(folder: Path, step: int, instant: str) -> int | None:
    """Return the exit code of the process that saves."""
    process = CONTEXT.Process(target=_save, args=(folder, step, instant))
    process.start()
    process.join(60)
    return process.exitcode
