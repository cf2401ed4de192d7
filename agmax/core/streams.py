"""The program's stdin, stdout and stderr: closed, full or without a reader, they never end a training."""

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from agmax.core.errors import AgmaxError, OutputError


class NoReaderError(AgmaxError):
    """The reader of stdout has closed the pipe, as in `--list | head`; nothing is said about it."""

    exit_code = 141

    @property
    def lines(self) -> list[str]:
        return []


def prepare() -> None:
    """Make the standard streams safe to use: closed ones are opened, errors of stderr are dropped.

    Streams that Python has not opened itself, those of a test for instance, stay as they are. All of them escape what
    they cannot show, class names for instance.
    """
    _open_closed_descriptors()
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Stdout(1, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Stderr(2, "w", closefd=False), sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def write_stdout() -> Iterator[None]:
    """Write what stdout still holds when the block ends; after an error in the block, that error counts.

    Raises:
        OutputError: stdout is closed or full.
        NoReaderError: its reader has closed the pipe.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit):  # argparse has printed its help
            sys.stdout.flush()
        with suppress(AgmaxError):
            sys.stdout.flush()
        raise
    sys.stdout.flush()


def _open_closed_descriptors() -> None:
    """Open those of the descriptors 0, 1 and 2 that are closed: the next file opened would get their numbers.

    A library that writes to stderr would then write into that file. Writing to stdout stays an error.
    """
    for descriptor, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)  # the lowest number that is free: this one
            os.set_inheritable(opened, True)


def _text(raw: io.FileIO, replaced: Any) -> io.TextIOWrapper:
    """Return a text stream with the encoding of the one that it replaces, if that is open."""
    encoding = replaced.encoding if replaced is not None else "utf-8"
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, encoding=encoding, line_buffering=raw.fileno() == 2 or raw.isatty())


class _Stderr(io.FileIO):
    """A stderr that drops what it cannot write: its reader has left, the disk is full, the terminal is gone."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            return super().write(data) or len(data)
        return len(data)


class _Stdout(io.FileIO):
    """A stdout whose first error says what failed; what is written after it is dropped, until the program ends."""

    _has_failed = False

    def write(self, data: Any) -> int:
        if self._has_failed:
            return len(data)
        try:
            while (written := super().write(data)) is None:  # it does not block, and is full
                select.select([], [self], [])
            return written
        except BrokenPipeError as error:
            self._has_failed = True
            raise NoReaderError("nobody reads stdout") from error
        except OSError as error:
            self._has_failed = True
            why = "it is closed" if error.errno == errno.EBADF else error.strerror
            remedy = "Redirect it to where there is space; a training's result is in its run folder"
            raise OutputError(
                "cannot print the result", where="stdout", why=why or str(error), remedy=remedy
            ) from error
