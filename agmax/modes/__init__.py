"""One function per mode: what the user asked for -> its result, said to people and returned for --json."""

import importlib
from typing import Any

from agmax import cli
from agmax.errors import UsageError

SMALLEST_TORCH = (2, 10)
"""Older releases load checkpoints unsafely (CVE-2025-32434, CVE-2026-24747)."""

MODES = {
    "train": "training.train",
    "eval": "training.evaluate",
    "print-config": "settings.print_config",
    "list": "settings.list_all",
    "summary": "inspection.summary",
    "preview": "inspection.preview",
    "benchmark": "comparisons.benchmark",
    "study": "comparisons.study",
    "compare": "comparisons.compare",
    "diff": "comparisons.diff",
    "predict": "weights.predict",
    "export": "weights.export",
    "download": "weights.download",
}
"""Mode -> module and function. Modules are imported when asked for: settings are shown without torch."""


def answer(request: cli.Request) -> dict[str, Any]:
    """Do what was asked for."""
    module, name = MODES[request.mode].split(".")
    if module != "settings":
        _check_torch()
        from agmax.run import log_to

        log_to([])
    result: dict[str, Any] = getattr(importlib.import_module(f"agmax.modes.{module}"), name)(request)
    return result


def _check_torch() -> None:
    """Check the library that loads checkpoints, before any data is touched."""
    import torch

    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < SMALLEST_TORCH:
        needed = ".".join(map(str, SMALLEST_TORCH))
        remedy = "Run python3 -m pip install -r requirements.txt"
        raise UsageError("torch is too old", where=torch.__version__, why=f"{needed} or newer is needed", remedy=remedy)
