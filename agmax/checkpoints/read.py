"""Read a checkpoint as data, never as a program, and check it before anything is used."""

import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agmax.checkpoints.write import FORMAT, VERSION
from agmax.core.errors import CheckpointError

MAX_ENTRIES, MAX_BYTES = 100_000, 2**36
"""Of a file that is read; the largest networks there are fill a quarter of these 64 GiB."""

DOWNLOAD_OR_TRAIN_AGAIN = "Copy or download it anew, or use an older one"

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this program onto the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, compressed, holds programs, or is not ours.
    """
    with open_checkpoint(path) as file:
        return check_state(read_state(file, path), path)


def check_state(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what a file holds where it is a checkpoint of this program.

    Raises:
        CheckpointError: it is not.
    """
    if state.get("format") != FORMAT:
        raise CheckpointError("not a checkpoint of this program", where=path)
    if state.get("version") != VERSION:
        why = f"format version {state.get('version')}, this program reads {VERSION}"
        raise CheckpointError("checkpoint of another version", where=path, why=why)
    return state


@contextmanager
def open_checkpoint(path: Path) -> Iterator[BufferedReader]:
    """Open a plain file; what is put in its place meanwhile is not read.

    Raises:
        CheckpointError: it is not there, no plain file, or too large.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")  # a pipe would wait for its writer
    except (OSError, ValueError) as error:
        is_folder = isinstance(error, IsADirectoryError)
        why = "it is no plain file" if is_folder else getattr(error, "strerror", None) or str(error)
        what = "not a checkpoint" if is_folder else "checkpoint not found"
        raise CheckpointError(what, where=path, why=why) from error
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError("not a checkpoint", where=path, why="it is no plain file")
        if status.st_size > MAX_BYTES:
            why = f"it has {status.st_size:,} bytes, {MAX_BYTES:,} is the most that is read"
            raise CheckpointError("not a checkpoint", where=path, why=why)
        yield file


def read_state(
    file: BufferedReader, where: Path, *, check: Callable[[dict[str, Any]], object] | None = None
) -> dict[str, Any]:
    """Read tensors and plain types onto the CPU, whoever wrote them.

    `check` gets the same before any number is read: its tensors have shapes alone, on torch's meta device.

    Raises:
        CheckpointError: the file is damaged, compressed, or holds programs, or `check` says so.
    """
    verify(file, where)
    if check is not None:
        check(_unpickle(file, where, "meta"))
    return _unpickle(file, where, "cpu")


def _unpickle(file: BufferedReader, where: Path, device: str) -> dict[str, Any]:
    file.seek(0)
    try:
        state = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # whatever a crafted file makes the reader raise
        raise CheckpointError("checkpoint not loaded", where=where, why=_reason(file, error)) from error
    if not isinstance(state, dict):
        raise CheckpointError("not a checkpoint", where=where, why=f"it holds a {type(state).__name__}")
    for tensor in tensors_in(state):
        is_dense = tensor.layout is torch.strided and tensor.device.type == device
        if not is_dense or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            why = f"it holds a tensor of {tuple(tensor.shape)} without the numbers for it"
            raise CheckpointError("not a checkpoint", where=where, why=why)
    return state


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors among nested dicts, lists and tuples, which may hold themselves."""
    found, seen, left = list[Tensor](), set[int](), [value]
    while left:
        item = left.pop()
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            left += item.values() if isinstance(item, dict) else item
    return found


def named_tensors(value: object, where: Path) -> dict[str, Tensor]:
    """Return a mapping of names to tensors as what it is.

    Raises:
        CheckpointError: it is none.
    """
    if not isinstance(value, dict) or not value:
        raise CheckpointError("not a checkpoint", where=where, why="it holds no weights by name")
    for key, item in value.items():
        if not isinstance(key, str) or not isinstance(item, Tensor):
            raise CheckpointError("not a checkpoint", where=where, why=f"{key!r} is no tensor with a name"[:200])
    return value


def verify(file: BufferedReader, where: Path) -> None:
    """Check that a file is a whole, uncompressed checkpoint archive: names, sizes and every checksum.

    Raises:
        CheckpointError: it is not.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ENTRIES:
                raise CheckpointError("not a checkpoint", where=where, why=f"it has {len(entries)} entries")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise CheckpointError("not a checkpoint", where=where, why="it holds compressed entries")
            if sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
                raise CheckpointError("not a checkpoint", where=where, why="its entries are larger than the file")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError) as error:  # RuntimeError: "is encrypted"
        file.seek(0)
        if file.read(2) != b"PK":
            why = "it is no zip file, as torch has written them since release 1.6"
            raise CheckpointError("not a checkpoint", where=where, why=why) from error
        raise CheckpointError(
            "damaged checkpoint", where=where, why=str(error), remedy=DOWNLOAD_OR_TRAIN_AGAIN
        ) from error
    if damaged is not None:
        raise CheckpointError(
            "damaged checkpoint", where=where, why=f"wrong checksum in {damaged}", remedy=DOWNLOAD_OR_TRAIN_AGAIN
        )


def _reason(file: BufferedReader, error: Exception) -> str:
    """Name what is refused in a file; torch's own text tells how to load it all the same."""
    try:
        file.seek(0)
        refused = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # the file is damaged in some other way
        refused = []
    if refused:
        return f"it holds programs, which are never run: {', '.join(sorted(refused)[:5])}"
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def load_weights(model: nn.Module, weights: dict[str, Tensor], *, where: Path, saved: str, wanted: str) -> None:
    """Give a model its weights; `saved` and `wanted` describe what the file holds and what the model is.

    Raises:
        CheckpointError: names, shapes or kinds of numbers differ, or a weight is no finite number.
    """
    check_fit(model, weights, where=where, saved=saved, wanted=wanted)
    check_finite(weights, where)
    model.load_state_dict(weights)


def check_fit(model: nn.Module, weights: dict[str, Tensor], *, where: Path, saved: str, wanted: str) -> None:
    """Compare weights with those of a model, which need hold no numbers.

    Raises:
        CheckpointError: names, shapes or kinds of numbers differ.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - weights.keys())
    unexpected = sorted(weights.keys() - own.keys())
    shapes = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own.keys() & weights.keys()
        if weights[key].shape != own[key].shape
    ]
    shapes += [
        f"{key} {weights[key].dtype} instead of {own[key].dtype}"
        for key in own.keys() & weights.keys()
        if (weights[key].dtype in FLOATS) != (own[key].dtype in FLOATS) or weights[key].dtype.is_complex
    ]
    if missing or unexpected or shapes:
        parts = [
            f"{len(found)} {kind} ({', '.join(found[:5])}{', ...' if len(found) > 5 else ''})"
            for kind, found in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape or kind", sorted(shapes)),
            )
            if found
        ]
        why = f"checkpoint: {saved}; configuration: {wanted}; weights: {', '.join(parts)}"
        raise CheckpointError("weights do not fit the model", where=where, why=why)


def check_finite(weights: dict[str, Tensor], where: Path) -> None:
    """Look for weights that are no finite number.

    Raises:
        CheckpointError: there are some.
    """
    broken = [key for key, value in weights.items() if not value.isfinite().all()]
    if broken:
        why = f"{', '.join(broken[:5])} hold numbers that are not finite"
        remedy = "Use an older checkpoint; --eval --allow-nonfinite looks at this one all the same"
        raise CheckpointError("weights not finite", where=where, why=why, remedy=remedy)
