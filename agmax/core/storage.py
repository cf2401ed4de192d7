"""Every write to disk: a file is there whole or not at all, has one writer, and says why where it cannot be."""

import errno
import fcntl
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO

from agmax.core.errors import OutputError, UsageError

CANNOT = "cannot write"

NEARLY_FULL = 64 * 2**20
"""Bytes: with fewer of them free, an error of torch that hides its cause is laid to a full disk."""

LONGEST_NAME = 200
"""Bytes of a file's name that its temporary has too, whose longer name must not pass 255."""

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""What is never replaced by a file."""

RUN_FILES = ("metrics.jsonl", "environment.json", ".lock", "checkpoints/step-*.pth")
"""By one of them beside its config.yaml a run folder is known: a config.yaml and checkpoints/ may stand elsewhere."""


class AlreadyExistsError(UsageError):
    """A file that is there already and was not to be replaced."""

    def __init__(self, path: Path) -> None:
        super().__init__("there is a file already", where=path, remedy="Give --force to replace it")


@contextmanager
def atomic_file(
    path: Path,
    *,
    replace: bool = True,
    verify: Callable[[Path], None] | None = None,
    what: str = CANNOT,
    remedy: str = "",
) -> Iterator[BinaryIO]:
    """Open a file that takes its place, whole and synced, when the block ends; where that fails nothing has changed.

    `verify` is given the finished file before it is put in place, and raises OSError to refuse it.

    Raises:
        OutputError: it cannot be written, or what is there is no plain file.
        TakenError: a file is there, and `replace` is false.
    """
    name = os.fsdecode(os.fsencode(path.name)[:LONGEST_NAME])
    temporary = path.with_name(f".{name}.tmp-{os.getpid()}")
    try:
        with explain(path, what=what, remedy=remedy):
            refuse_special(path)
            temporary.unlink(missing_ok=True)  # of a killed program that had the same number
            with temporary.open("xb") as file:
                yield file
                sync(file)
            if verify is not None:
                verify(temporary)
            put_in_place(temporary, path, replace=replace)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def output_file(path: Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """Open a file that the user has named, or a mode by its own rule; `force` replaces one that is there.

    Raises:
        OutputError: it cannot be written, or must not be: see `check_output`.
        TakenError: it is there, and nothing forces.
    """
    check_output(path, force=force)
    with atomic_file(path, replace=force) as file:
        yield file


def write_file(path: Path, content: str | bytes, *, what: str = CANNOT, remedy: str = "") -> None:
    """Write a whole file, text as UTF-8.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(path, what=what, remedy=remedy) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def append(path: Path, content: str | bytes) -> None:
    """Add to the end of a file, text as UTF-8.

    Raises:
        OutputError: it cannot be written.
    """
    with explain(path), path.open("a+b") as file:  # which does not wait where it is a pipe
        file.write(content.encode() if isinstance(content, str) else content)
        sync(file)


def put_in_place(temporary: Path, path: Path, *, replace: bool = True) -> None:
    """Move a finished file to its name, at once and durably.

    Raises:
        OSError: it cannot be moved.
        OutputError: what is there is no plain file.
        TakenError: a file is there, and `replace` is false.
    """
    refuse_special(path)
    if not replace:
        _refuse_existing(path)
    try:
        os.replace(temporary, path) if replace else os.link(temporary, path)  # a link never replaces
    except FileExistsError as error:
        raise AlreadyExistsError(path) from error
    except OSError as error:
        if replace or error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        os.replace(temporary, path)  # on a file system that has no links
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # there are file systems whose folders are not synced
            raise
    finally:
        os.close(folder)


def sync(file: BinaryIO) -> None:
    """Bring to the disk what was written to an open file."""
    file.flush()
    os.fsync(file.fileno())


def sweep(folder: Path) -> None:
    """Remove what killed programs have left half written in a folder in which no other program is writing.

    Raises:
        OutputError: it cannot be removed.
    """
    for leftover in folder.glob(".*.tmp-*"):
        with explain(leftover, what="cannot remove"):
            leftover.unlink(missing_ok=True)


def make_folder(path: Path, *, what: str = CANNOT, remedy: str = "") -> None:
    """Make a folder, and those above it, where it is not there.

    Raises:
        OutputError: it cannot be made.
    """
    with explain(path, what=what, remedy=remedy):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def open_locked(
    path: Path, *, wait: bool = False, what: str = CANNOT, remedy: str = ""
) -> Iterator[BufferedRandom | None]:
    """Open a file to read and to append that no other program opens so meanwhile; it is made where it is not there.

    Where another program has it the block gets None, or with `wait` the file as soon as it is free. The lock of a
    program that is killed goes with it, at the latest when the processes that have inherited the file have ended too.

    Raises:
        OutputError: it cannot be written.
    """
    with explain(path, what=what, remedy=remedy):
        file = _try_open_locked(path, wait=wait)
    if file is None:
        yield None
        return
    with file:
        yield file


@contextmanager
def lock(path: Path) -> Iterator[int | None]:
    """Hold a lock file that says who holds it, and yield its descriptor; None where another program holds it.

    Raises:
        OutputError: it cannot be written.
    """
    with open_locked(path) as file:
        if file is None:
            yield None
            return
        with explain(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}".encode())
            file.flush()
        yield file.fileno()


def lock_owner(path: Path) -> str:
    """Return who holds a lock file, `process 123 on host`, as far as that can be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") or "another program"
    except OSError:
        return "another program"


def check_writable(path: Path, *, is_folder: bool = False, what: str = CANNOT, remedy: str = "") -> None:
    """Find out before the work begins whether a folder, or a file that is appended to, can be written.

    The folder is made where it is not there, the file is not.

    Raises:
        OutputError: it cannot.
    """
    folder = path if is_folder else path.parent
    with explain(path, what=what, remedy=remedy):
        folder.mkdir(parents=True, exist_ok=True)
        _try_writing(folder)
        if not is_folder and path.exists():
            path.open("a+b").close()


def check_output(path: Path, *, force: bool = False) -> None:
    """Find out before the work begins whether a file that the user has named may be written.

    Raises:
        OutputError: it cannot; it is a device, a pipe, a link or a folder; or it lies in the folder of a run.
        TakenError: it is there, and nothing forces.
    """
    with explain(path):
        refuse_special(path)
        folder = path.parent.resolve()
        run = next((above for above in (folder, *folder.parents) if _is_run(above)), None)
        if run is not None:
            why = f"it lies in the run folder {run}, which its training alone writes"
            raise OutputError(CANNOT, where=path, why=why, remedy="Name a file elsewhere")
        if not force:
            _refuse_existing(path)
        _try_writing(folder)


def refuse_special(path: Path) -> None:
    """Refuse what no file may replace.

    Raises:
        OutputError: a device, a pipe, a link or a folder is there.
        OSError: there can be no such file.
    """
    try:
        kind = KINDS.get(stat.S_IFMT(os.lstat(path).st_mode))
    except FileNotFoundError:
        return
    if kind is not None:
        raise OutputError(CANNOT, where=path, why=f"it is {kind}")


@contextmanager
def explain(path: Path, *, what: str = CANNOT, remedy: str = "") -> Iterator[None]:
    """Raise an error of the system that occurs in the block as one that names the file and says what to do.

    Raises:
        OutputError: the disk is full, the file system read-only, the folder gone, the name too long.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = _cause(error)
        free = _free_bytes(path)
        is_hidden = cause is None and "unexpected pos" in str(error) and free < NEARLY_FULL
        if cause is None and not is_hidden:
            raise
        why = cause.strerror or str(cause) if cause is not None else "not all could be written"
        if is_hidden or (cause is not None and cause.errno in (errno.ENOSPC, errno.EDQUOT)):
            what, why = "disk full", f"{why}, {free / 2**20:.0f} MiB are free"
            remedy = "Free space and start again, a training with --resume; what was there before is intact"
        elif isinstance(cause, FileNotFoundError) and not os.path.exists(path.parent):
            why = "its folder is not there"
        raise OutputError(what, where=path, why=why, remedy=remedy) from error


def _cause(error: BaseException | None) -> OSError | None:
    """Return the error of the system behind an error: torch reports one that it met while saving as a RuntimeError."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def _free_bytes(path: Path) -> int:
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return 0


def _try_open_locked(path: Path, *, wait: bool) -> BufferedRandom | None:
    while True:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        file.close()  # meanwhile another file has taken its place
        if not wait:
            return None


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise AlreadyExistsError(path)


def _try_writing(folder: Path) -> None:
    """Make a file without a name."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and any(any(folder.glob(name)) for name in RUN_FILES)
