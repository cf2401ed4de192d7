"""All writes to disk: atomic, synced, and with an error that explains what failed."""

import errno
import os
import resource
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from agmax.core.errors import DiskFullError, OutputError, UsageError

CANNOT = "cannot write"

NEARLY_FULL = 64 * 2**20
"""Bytes: with fewer free, an error of torch without a cause is reported as a full disk."""

LONGEST_NAME = 200
"""Bytes of a file's name that its temporary file keeps; with its additions a name must stay under 256."""

SPECIAL_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""Types of files that are never replaced."""

RUN_FILES = ("metrics.jsonl", "environment.json", ".lock", "checkpoints/step-*.pth")
"""A folder with config.yaml and one of these is a run folder; config.yaml and checkpoints/ alone may be others."""


class AlreadyExistsError(UsageError):
    """A file that exists and must not be replaced."""

    def __init__(self, path: Path) -> None:
        super().__init__("the file exists already", where=path, remedy="Give --force to replace it")


@contextmanager
def atomic_file(
    path: Path,
    *,
    replace: bool = True,
    verify: Callable[[Path], None] | None = None,
    what: str = CANNOT,
    remedy: str = "",
) -> Iterator[BinaryIO]:
    """Open a temporary file that is synced and moved to `path` when the block ends; on failure nothing changes.

    `verify` receives the finished temporary file before the move, and raises OSError to refuse it.

    Raises:
        OutputError: the file cannot be written, or `path` is not a plain file.
        AlreadyExistsError: `path` exists, and `replace` is false.
    """
    name = os.fsdecode(os.fsencode(path.name)[:LONGEST_NAME])
    temporary = path.with_name(f".{name}.tmp-{os.getpid()}")
    try:
        with explain(path, what=what, remedy=remedy):
            refuse_special(path)
            temporary.unlink(missing_ok=True)  # left by a killed program with the same process id
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
    """Open an output file of a mode; `force` replaces an existing one.

    Raises:
        OutputError: the file cannot or must not be written; see `check_output`.
        AlreadyExistsError: it exists, and `force` is false.
    """
    check_output(path, force=force)
    with atomic_file(path, replace=force) as file:
        yield file


def write_file(path: Path, content: str | bytes, *, what: str = CANNOT, remedy: str = "") -> None:
    """Write a file atomically, text as UTF-8.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(path, what=what, remedy=remedy) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def append(path: Path, content: str | bytes) -> None:
    """Append to a file, text as UTF-8.

    Raises:
        OutputError: the file cannot be written.
    """
    with explain(path):
        is_new = not path.exists()
        with path.open("a+b") as file:  # this mode does not block on a pipe
            file.write(content.encode() if isinstance(content, str) else content)
            sync(file)
        if is_new:
            sync_folder(path.parent)


def overwrite(path: Path, content: str) -> None:
    """Replace the content of an existing file within its own blocks: possible on a full disk, but not atomic.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("r+b") as file:
        file.write(content.encode())
        file.truncate()
        sync(file)


def put_in_place(temporary: Path, path: Path, *, replace: bool = True) -> None:
    """Move a finished file to its name, atomically and durably.

    Raises:
        OSError: the file cannot be moved.
        OutputError: `path` is not a plain file.
        AlreadyExistsError: `path` exists, and `replace` is false.
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
        os.replace(temporary, path)  # this file system has no links
    sync_folder(path.parent)


def sync(file: BinaryIO) -> None:
    """Flush and sync an open file to disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Sync a folder, so that a power failure does not lose the names of new files in it.

    Raises:
        OSError: the folder cannot be synced.
    """
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(folder)


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed programs, at all depths, from a folder that no other program writes to.

    Raises:
        OutputError: a file cannot be removed.
    """
    for leftover in folder.rglob(".*.tmp-*"):
        with explain(leftover, what="cannot remove"):
            leftover.unlink(missing_ok=True)


def make_folder(path: Path, *, what: str = CANNOT, remedy: str = "") -> None:
    """Create a folder and its parents if they do not exist.

    Raises:
        OutputError: the folder cannot be created.
    """
    with explain(path, what=what, remedy=remedy):
        path.mkdir(parents=True, exist_ok=True)


def check_space(folder: Path, needed: int, *, purpose: str, remedy: str) -> None:
    """Check before a run that a disk has `needed` bytes free; quotas and limits of file sizes are not seen.

    Raises:
        DiskFullError: it has not.
    """
    free = free_bytes(folder)
    if free < needed:
        why = f"{purpose} need {needed / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free"
        raise DiskFullError("disk full", where=folder, why=why, remedy=remedy)


def check_writable(path: Path, *, is_folder: bool = False, what: str = CANNOT, remedy: str = "") -> None:
    """Check before a run that a folder, or a file that is appended to, can be written; create the folder only.

    Raises:
        OutputError: it cannot be written.
    """
    folder = path if is_folder else path.parent
    with explain(path, what=what, remedy=remedy):
        folder.mkdir(parents=True, exist_ok=True)
        _try_writing(folder)
        if not is_folder and path.exists():
            path.open("a+b").close()


def check_output(path: Path, *, force: bool = False) -> None:
    """Check before a run that an output file may be written.

    Raises:
        OutputError: it cannot be written, is a device, a pipe, a link or a folder, or is inside a run folder.
        AlreadyExistsError: it exists, and `force` is false.
    """
    with explain(path):
        refuse_special(path)
        folder = path.parent.resolve()
        run = next((parent for parent in (folder, *folder.parents) if _is_run_folder(parent)), None)
        if run is not None:
            why = f"it is in the run folder {run}, which only its training may write"
            raise OutputError(CANNOT, where=path, why=why, remedy="Name a file elsewhere")
        if not force:
            _refuse_existing(path)
        _try_writing(folder)


def refuse_special(path: Path) -> None:
    """Refuse a path that is not a plain file and exists.

    Raises:
        OutputError: the path is a device, a pipe, a link or a folder.
        OSError: no file can have this path.
    """
    try:
        kind = SPECIAL_FILES.get(stat.S_IFMT(os.lstat(path).st_mode))
    except FileNotFoundError:
        return
    if kind is not None:
        raise OutputError(CANNOT, where=path, why=f"it is {kind}")


@contextmanager
def explain(path: Path, *, what: str = CANNOT, remedy: str = "") -> Iterator[None]:
    """Convert a system error in the block to an error that names the file and the remedy.

    Raises:
        DiskFullError: the disk is full, or the quota is reached.
        OutputError: for instance, the file system is read-only, or the folder does not exist.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = _cause(error)
        free = free_bytes(path.parent)
        if cause is None and not ("unexpected pos" in str(error) and free < NEARLY_FULL):
            raise
        why = "the file is incomplete" if cause is None else cause.strerror or str(cause)
        if cause is None or cause.errno in (errno.ENOSPC, errno.EDQUOT):
            why += f", {free / 2**20:.1f} MiB are free"
            remedy = "Free space and start again, a training with --resume; earlier files are intact"
            what = "disk quota reached" if cause is not None and cause.errno == errno.EDQUOT else "disk full"
            raise DiskFullError(what, where=path, why=why, remedy=remedy) from error
        if cause.errno == errno.EFBIG:
            why += f", the limit is {resource.getrlimit(resource.RLIMIT_FSIZE)[0]:,} bytes"
            remedy = "Raise it (ulimit -f), or write to a file system that takes larger files"
        elif isinstance(cause, FileNotFoundError) and not os.path.exists(path.parent):
            why = "its folder does not exist"
        raise OutputError(what, where=path, why=why, remedy=remedy) from error


def _cause(error: BaseException | None) -> OSError | None:
    """Return the system error that caused an error: torch raises a RuntimeError when saving fails."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def free_bytes(folder: Path) -> int:
    """Return the free space of the disk of a folder, 0 if that is not known."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise AlreadyExistsError(path)


def _try_writing(folder: Path) -> None:
    """Create and remove a temporary file in a folder."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def _is_run_folder(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and any(any(folder.glob(name)) for name in RUN_FILES)
