"""Read a checkpoint without running code from it, and check it before use."""

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
"""Limits of a file that is read; the largest existing networks need a quarter of these 64 GiB."""

COPY_AGAIN = "Copy or download it again, or use an older one"

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this program onto the CPU.

    Raises:
        CheckpointError: the file is missing, is damaged or compressed, contains code, or is of another program.
    """
    with open_checkpoint(path) as file:
        return check_state(read_state(file, path), path)


def check_state(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the state of a checkpoint of this program; one of an earlier version has the entries of this version.

    Raises:
        CheckpointError: it is no checkpoint of this program, or of a later version.
    """
    if state.get("format") != FORMAT:
        raise CheckpointError("not a checkpoint of this program", where=path)
    version = state.get("version")
    if not (isinstance(version, int) and 1 <= version <= VERSION):
        why = f"format version {version}, this program reads 1 to {VERSION}"
        remedy = "Update this program, or use the release that wrote the file"
        raise CheckpointError("checkpoint of another version", where=path, why=why[:200], remedy=remedy)
    for earlier in range(version, VERSION):
        state = {**UPGRADES[earlier](state), "version": earlier + 1}
    return state


def _from_version_1(state: dict[str, Any]) -> dict[str, Any]:
    """Add the fingerprint of the data set, which version 1 does not have."""
    return {**state, "fingerprint": None}


UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_version_1}
"""For each earlier version: make the entries of the next one."""


@contextmanager
def open_checkpoint(path: Path) -> Iterator[BufferedReader]:
    """Open a checkpoint file once, so that all checks and reads see the same file.

    Raises:
        CheckpointError: the file does not exist, is not a plain file, or is too large.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")  # does not wait for the writer of a pipe
    except (OSError, ValueError) as error:
        is_folder = isinstance(error, IsADirectoryError)
        why = "it is not a plain file" if is_folder else getattr(error, "strerror", None) or str(error)
        what = "not a checkpoint" if is_folder else "checkpoint not found"
        raise CheckpointError(what, where=path, why=why) from error
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError("not a checkpoint", where=path, why="it is not a plain file")
        if status.st_size > MAX_BYTES:
            why = f"it has {status.st_size:,} bytes, the limit is {MAX_BYTES:,}"
            raise CheckpointError("not a checkpoint", where=path, why=why)
        yield file


def read_state(
    file: BufferedReader, where: Path, *, check: Callable[[dict[str, Any]], object] | None = None
) -> dict[str, Any]:
    """Read tensors and plain types onto the CPU, from a checkpoint of any program.

    `check` is called first with the same contents on torch's meta device: its tensors have shapes but no values.

    Raises:
        CheckpointError: the file is damaged or compressed, contains code, or `check` refuses it.
    """
    verify(file, where)
    if check is not None:
        check(_unpickle(file, where, "meta"))
    return _unpickle(file, where, "cpu")


def _unpickle(file: BufferedReader, where: Path, device: str) -> dict[str, Any]:
    file.seek(0)
    try:
        state = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # a manipulated file can make the reader raise anything
        raise CheckpointError("checkpoint not loaded", where=where, why=_reason(file, error)) from error
    if not isinstance(state, dict):
        raise CheckpointError("not a checkpoint", where=where, why=f"it holds a {type(state).__name__}")
    for tensor in tensors_in(state):
        is_dense = tensor.layout is torch.strided and tensor.device.type == device
        if not is_dense or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            why = f"it holds a tensor of {tuple(tensor.shape)} without enough values"
            raise CheckpointError("not a checkpoint", where=where, why=why)
    return state


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in nested dicts, lists and tuples, which may contain themselves."""
    tensors, seen, stack = list[Tensor](), set[int](), [value]
    while stack:
        item = stack.pop()
        if isinstance(item, Tensor):
            tensors.append(item)
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            stack += item.values() if isinstance(item, dict) else item
    return tensors


def named_tensors(value: object, where: Path) -> dict[str, Tensor]:
    """Return `value` if it maps names to tensors.

    Raises:
        CheckpointError: it does not.
    """
    if not isinstance(value, dict) or not value:
        raise CheckpointError("not a checkpoint", where=where, why="it holds no named weights")
    for key, item in value.items():
        if not isinstance(key, str) or not isinstance(item, Tensor):
            raise CheckpointError("not a checkpoint", where=where, why=f"{key!r} is not a named tensor"[:200])
    return value


def verify(file: BufferedReader, where: Path) -> None:
    """Check that a file is a complete, uncompressed archive: its size limits and every checksum.

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
            why = "it is not a zip file, the format of torch since release 1.6"
            raise CheckpointError("not a checkpoint", where=where, why=why) from error
        raise CheckpointError("damaged checkpoint", where=where, why=str(error), remedy=COPY_AGAIN) from error
    if damaged is not None:
        raise CheckpointError("damaged checkpoint", where=where, why=f"wrong checksum in {damaged}", remedy=COPY_AGAIN)


def _reason(file: BufferedReader, error: Exception) -> str:
    """Return why a file is refused; torch's own message would suggest how to load it anyway."""
    try:
        file.seek(0)
        refused = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # the file is damaged in some other way
        refused = []
    if refused:
        return f"it contains code, which is never run: {', '.join(sorted(refused)[:5])}"
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def load_weights(model: nn.Module, weights: dict[str, Tensor], *, where: Path, saved: str, wanted: str) -> None:
    """Load weights into a model; `saved` and `wanted` describe the file's network and the model in errors.

    Raises:
        CheckpointError: names, shapes or dtypes differ, or a weight is not finite.
    """
    check_fit(model, weights, where=where, saved=saved, wanted=wanted)
    check_finite(weights, where)
    model.load_state_dict(weights)


def check_fit(model: nn.Module, weights: dict[str, Tensor], *, where: Path, saved: str, wanted: str) -> None:
    """Compare names, shapes and dtypes of `weights` with those of a model, which may be on the meta device.

    Raises:
        CheckpointError: they differ.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - weights.keys())
    unexpected = sorted(weights.keys() - own.keys())
    different = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own.keys() & weights.keys()
        if weights[key].shape != own[key].shape
    ]
    different += [
        f"{key} {weights[key].dtype} instead of {own[key].dtype}"
        for key in own.keys() & weights.keys()
        if (weights[key].dtype in FLOATS) != (own[key].dtype in FLOATS) or weights[key].dtype.is_complex
    ]
    if missing or unexpected or different:
        parts = [
            f"{len(items)} {kind} ({', '.join(items[:5])}{', ...' if len(items) > 5 else ''})"
            for kind, items in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape or dtype", sorted(different)),
            )
            if items
        ]
        why = f"checkpoint: {saved}; configuration: {wanted}; weights: {', '.join(parts)}"
        raise CheckpointError("weights do not fit the model", where=where, why=why)


def check_finite(weights: dict[str, Tensor], where: Path) -> None:
    """Check that all weights are finite.

    Raises:
        CheckpointError: a weight is NaN or infinite.
    """
    nonfinite = [key for key, value in weights.items() if not value.isfinite().all()]
    if nonfinite:
        why = f"{', '.join(nonfinite[:5])} hold values that are not finite"
        remedy = "Use an older checkpoint, or evaluate this one with --eval --allow-nonfinite"
        raise CheckpointError("weights not finite", where=where, why=why, remedy=remedy)
