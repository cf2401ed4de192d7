"""Run a mode: check the packages, import the user's files, explain a lack of memory."""

import contextlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from agmax.cli.modes import MODES
from agmax.cli.packages import check_packages
from agmax.cli.parser import Request
from agmax.core.errors import ResourceError, UsageError
from agmax.core.logs import to_stderr
from agmax.experiments.source_hash import IMPORTED


def run(request: Request) -> dict[str, Any]:
    """Run the requested mode, and return its result for --json.

    Raises:
        UsageError: several processes were started, a package is too old, or a file of --import fails.
        ResourceError: the memory of the CPU or GPU is full, or the GPU cannot be used.
    """
    mode = MODES[request.mode]
    if mode.trains and os.environ.get("WORLD_SIZE", "1") != "1":
        why = "each process would train separately"
        remedy = "Start one process: it uses all GPUs of CUDA_VISIBLE_DEVICES"
        raise UsageError("started as several processes", where="torchrun", why=why, remedy=remedy)
    if mode.needs_torch:
        check_packages()
        to_stderr()
    try:
        # A training prints no result without --json, so its output goes to stderr: a closed stdout does not end it.
        # With --json, the output of imported files and libraries is no part of the result.
        prints_result = not request.as_json and request.mode != "train"
        with contextlib.nullcontext() if prints_result else contextlib.redirect_stdout(sys.stderr):
            for path in request.imports:
                _import_file(Path(path))
            result: dict[str, Any] = importlib.import_module(mode.module).run(request)
    except (MemoryError, RuntimeError) as error:
        from agmax.core import memory

        if any(text in str(error) for text in UNUSABLE):
            remedy = "Choose another one by CUDA_VISIBLE_DEVICES, or give --device cpu"
            raise ResourceError("the GPU cannot be used", why=str(error).partition("\n")[0], remedy=remedy) from error
        if not memory.is_full(error):
            raise
        sizes = "evaluation.batch_size" if request.mode != "train" else "train.batch_size and evaluation.batch_size"
        remedy = f"Reduce {sizes}, or compute in bf16 (train.precision=auto, evaluation.precision=auto)"
        raise ResourceError(memory.FULL_MEMORY, why=memory.reason(error), remedy=remedy) from error
    return result


def _import_file(path: Path) -> None:
    """Run a Python file of the user as a module of its name, once.

    Raises:
        UsageError: the file does not exist, has the name of another module, or fails.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError("cannot import", where=path, why="no such Python file", remedy="Give the path of a .py file")
    try:
        other = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):
        other = None
    if other is not None and not (other.origin and os.path.exists(other.origin) and path.samefile(other.origin)):
        why = f"another module has the name {path.stem}"
        raise UsageError("cannot import", where=path, why=why, remedy="Rename the file")
    if path.stem in sys.modules:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and data workers look up classes in it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        why = f"{type(error).__name__}: {error}"
        raise UsageError(
            "cannot import", where=f"{path}:{line}", why=why, remedy="--debug shows the traceback"
        ) from error
    IMPORTED.append(path)


UNUSABLE = (
    "busy or unavailable",
    "no CUDA-capable device",
    "driver version is insufficient",
    "no NVIDIA driver",
    "NVIDIA driver on your system is too old",
    "uncorrectable ECC error",
)
"""Parts of CUDA's and torch's messages when a GPU is occupied or broken, or its driver is missing."""
