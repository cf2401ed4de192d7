"""Describe what a result depends on beside its configuration: versions, machine, commit, code, command."""

import platform
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agmax.config import names
from agmax.core.errors import without_secrets
from agmax.experiments.source_hash import source_hash

GIT = ("git", "--no-optional-locks")
"""Git that only reads: killed together with a training, it would leave a lock that hinders the user's commits."""


def environment(**more: Any) -> dict[str, Any]:
    """Return versions, platform, command, commit and source hash, and `more`."""
    packages = ("torch", "torchvision", "timm", "numpy", "pydantic")
    return {
        "agmax": _version("agmax"),
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "platform": platform.platform(),
        "command": [without_secrets(word) for word in sys.argv],
        **_commit(),
        "code": source_hash(),
        **more,
    }


def program() -> list[str]:
    """Return the command that starts this program, from any folder."""
    script = _script()
    return [sys.executable, str(script)] if script.is_file() else [sys.executable, "-m", "agmax"]


def continue_command(path: Path) -> str:
    """Return the command that continues a training, for a shell in the current folder; as short as it can be typed."""
    script, here = _script(), Path("main.py")
    words = program()
    if script.is_file() and here.is_file() and here.samefile(script):
        words = ["python3", "main.py"]
    elif not script.is_file() and shutil.which("agmax"):
        words = ["agmax"]
    return shlex.join([*words, "--train", "--resume", str(path)])


def _script() -> Path:
    """Return the path of main.py in a source tree; an installed package has none."""
    return names.PACKAGE.parent / "main.py"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        import agmax

        return agmax.__version__


def _commit() -> dict[str, Any]:
    """Return the commit of the source tree and whether the tree is clean, both None outside a repository.

    Changes in the records of studies are ignored.
    """
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            process = subprocess.run([*GIT, "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return process.stdout.strip() if process.returncode == 0 else None

    status = git("status", "--porcelain", "--", ":/", ":(top,exclude)configs/study/results")
    return {"commit": git("rev-parse", "HEAD"), "clean": None if status is None else status == ""}
