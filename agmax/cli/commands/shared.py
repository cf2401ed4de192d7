"""Functions that several modes use."""

import sys
from pathlib import Path
from typing import Any

from agmax.cli.parser import Request
from agmax.config.resolve import Resolved
from agmax.core.errors import UsageError, printable

ModeResult = dict[str, Any]
"""The result of a mode, printed by --json: keys and plain values."""


def print_notes(request: Request, resolved: Resolved) -> None:
    """Print remarks on flags and notes on the configuration to stderr."""
    for note in (*request.remarks, *resolved.notes):
        print(f"note: {printable(note)}", file=sys.stderr)


def figure_path(typed: str | None, default: str) -> Path:
    """Return the path of a figure: as typed, or `default` in the current folder.

    Raises:
        UsageError: the name does not end in .png.
    """
    path = default if typed is None else typed
    if not path.lower().endswith(".png"):
        where, remedy = f"--output={path}", "Write a name that ends in .png"
        raise UsageError("wrong value", where=where, why="the figure is a PNG file", remedy=remedy)
    return Path(path)
