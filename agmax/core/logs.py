"""The program's text: one logger, whose lines the command line sends to stderr and each training to a file too."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agmax.core.storage import explain

log = logging.getLogger("agmax")


def to_stderr() -> None:
    """Send the program's text to stderr alone; a program that imports this one leaves that to its own logging."""
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.addHandler(logging.StreamHandler(sys.stderr))


@contextmanager
def to_file(path: Path) -> Iterator[None]:
    """Send the program's text to a file too, behind what is there.

    Raises:
        OutputError: it cannot be written.
    """
    with explain(path):
        handler = logging.FileHandler(path, encoding="utf-8")
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
        log.setLevel(before)
