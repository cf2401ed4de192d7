"""Check the installed packages before a mode works with them."""

import re
from importlib import metadata
from importlib.util import find_spec

from agmax.core.errors import UsageError

SMALLEST = {
    "torch": "2.10",  # earlier releases load checkpoints unsafely (CVE-2025-32434, CVE-2026-24747)
    "torchvision": "0.25",  # the release for torch 2.10; others do not fit it
    "timm": "1.0.12",  # the first with a table of optimizers
    "numpy": "1.26.4",  # scipy 1.17 needs it
}
"""The oldest releases that this program can use; it is tested with those of requirements.txt, which are newer."""

OTHERS = ("matplotlib", "pydantic", "scipy", "tensorboard", "tqdm", "yaml")
"""The other modules of the packages in requirements.txt."""


def check_packages() -> None:
    """Check that no package is missing or too old, so that a mode does not find that out in the middle of its work.

    Raises:
        ModuleNotFoundError: a package is not installed.
        UsageError: a package is too old.
    """
    for module in (*SMALLEST, *OTHERS):
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named '{module}'", name=module)
    for package, smallest in SMALLEST.items():
        found = _installed(package)
        if found is not None and _numbers(found) < _numbers(smallest):
            why, remedy = f"{smallest} or newer is needed", "Run python3 -m pip install -r requirements.txt"
            raise UsageError(f"{package} is too old", where=found, why=why, remedy=remedy)


def _installed(package: str) -> str | None:
    """Return the installed version of a package, None if it is not known; torch is asked itself."""
    if package == "torch":
        import torch

        return torch.__version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """Return the release numbers of a version: (2, 14, 1) for `2.14.1+cpu`."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()
