"""The package's logger: the command line sends its lines to stderr, and each training also to a file."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agmax.core.errors import printable
from agmax.core.storage import explain

log = logging.getLogger("agmax")


def _on_one_line(record: logging.LogRecord) -> bool:
    """Escape line breaks of a name in the message; the text of an exception keeps its own."""
    record.msg, record.args = printable(record.getMessage()), None
    return True


log.addFilter(_on_one_line)


def to_stderr() -> None:
    """Send the log to stderr only; programs that import the package configure logging themselves."""
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.addHandler(logging.StreamHandler(sys.stderr))


@contextmanager
def to_file(path: Path) -> Iterator[None]:
    """Append the log to a file as well while the block runs; a line that cannot be written does not end the block.

    Raises:
        OutputError: the file cannot be opened.
    """
    with explain(path):
        handler = _LogFile(path, encoding="utf-8")
    previous_level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with suppress(OSError):  # what it still holds cannot be written
            handler.close()
        log.setLevel(previous_level)


class _LogFile(logging.FileHandler):
    """A log file that says once on stderr that it cannot be written, where logging prints a traceback for each line.

    Lines that could not be written are written with the first one that can.
    """

    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True
            print(f"warning: cannot write the log ({self.baseFilename}): {error.strerror}", file=sys.stderr)
