"""The program's text: one logger, to stderr and to files."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from agmax.core.storage import explain

log = logging.getLogger("agmax")


def log_to(paths: Sequence[Path]) -> None:
    """Send the program's text to stderr and to these files.

    Raises:
        OutputError: a file cannot be written.
    """
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    for path in paths:
        with explain(path):
            handlers.append(logging.FileHandler(path, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
