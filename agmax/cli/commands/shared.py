"""What the modes share."""

import sys
from pathlib import Path
from typing import Any

from agmax.cli.parser import Request
from agmax.config.resolve import Resolved
from agmax.core.errors import UsageError

Result = dict[str, Any]
"""What a mode returns: keys and plain values, printed by --json."""


def print_notes(request: Request, resolved: Resolved) -> None:
    """Say on stderr what was understood otherwise than it was typed."""
    for note in (*request.remarks, *resolved.notes):
        print(f"note: {note}", file=sys.stderr)


def picture(typed: str | None, default: str) -> Path:
    """Return where to draw: the file that was typed, or one in this folder.

    Raises:
        UsageError: it is no PNG file.
    """
    path = default if typed is None else typed
    if not path.lower().endswith(".png"):
        where, remedy = f"--output={path}", "Write a name that ends in .png"
        raise UsageError("wrong value", where=where, why="the picture is a PNG file", remedy=remedy)
    return Path(path)
