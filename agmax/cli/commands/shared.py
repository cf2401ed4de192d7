"""What the modes share."""

import sys
from typing import Any

from agmax.cli import parser
from agmax.config.resolve import Resolved

Result = dict[str, Any]
"""What a mode returns: keys and plain values, printed by --json."""


def print_notes(request: parser.Request, resolved: Resolved) -> None:
    """Say on stderr what was understood otherwise than it was typed."""
    for note in (*request.remarks, *resolved.notes):
        print(f"note: {note}", file=sys.stderr)
