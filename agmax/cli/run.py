"""Do what was asked for: find the mode, check the machine, explain a full memory."""

import contextlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from agmax.cli.modes import MODES
from agmax.cli.parser import Request
from agmax.core.errors import ResourceError, UsageError
from agmax.core.logs import to_stderr
from agmax.experiments.source_hash import IMPORTED

SMALLEST_TORCH = (2, 10)
"""Older releases load checkpoints unsafely (CVE-2025-32434, CVE-2026-24747)."""


def answer(request: Request) -> dict[str, Any]:
    """Do what was asked for."""
    mode = MODES[request.mode]
    if mode.trains and os.environ.get("WORLD_SIZE", "1") != "1":
        why = "each of these processes would train the whole by itself"
        remedy = "Start one process: it takes all GPUs of CUDA_VISIBLE_DEVICES"
        raise UsageError("started several times", where="torchrun", why=why, remedy=remedy)
    if mode.needs_torch:
        _check_torch()
        to_stderr()
    try:
        # What an imported file or a library prints is no part of the JSON object.
        with contextlib.redirect_stdout(sys.stderr) if request.as_json else contextlib.nullcontext():
            for path in request.imports:
                _import(Path(path))
            result: dict[str, Any] = importlib.import_module(mode.module).run(request)
    except (MemoryError, RuntimeError) as error:
        if not _is_full_memory(error):
            raise
        why = str(error).partition("\n")[0] or "nothing is left"
        sizes = "evaluation.batch_size" if request.mode != "train" else "train.batch_size and evaluation.batch_size"
        remedy = f"Lower {sizes}, or compute in bf16 (train.precision=auto, evaluation.precision=auto)"
        raise ResourceError("the memory is full", why=why, remedy=remedy) from error
    return result


def _import(path: Path) -> None:
    """Run a file of the user's own as a module of its name, once.

    Raises:
        UsageError: it is not there, or it fails.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError("cannot import", where=path, why="there is no such Python file", remedy="Give a file x.py")
    try:
        other = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):
        other = None
    if other is not None and not (other.origin and os.path.exists(other.origin) and path.samefile(other.origin)):
        why = f"another module is called {path.stem}"
        raise UsageError("cannot import", where=path, why=why, remedy="Rename the file")
    if path.stem in sys.modules:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and data workers look their classes up in it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        why = f"{type(error).__name__}: {error}"
        raise UsageError("cannot import", where=f"{path}:{line}", why=why, remedy="--debug shows all") from error
    IMPORTED.append(path)


def _is_full_memory(error: Exception) -> bool:
    """Tell whether an error says that no more memory can be had, on a GPU or not."""
    import torch

    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(words in str(error) for words in FULL)


FULL = ("can't allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED")
"""What torch's allocator for the CPU, CUDA, cuBLAS and cuDNN say when no memory is left."""


def _check_torch() -> None:
    """Check the library that loads checkpoints, before any data is touched."""
    import torch

    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < SMALLEST_TORCH:
        needed = ".".join(map(str, SMALLEST_TORCH))
        remedy = "Run python3 -m pip install -r requirements.txt"
        raise UsageError("torch is too old", where=torch.__version__, why=f"{needed} or newer is needed", remedy=remedy)
