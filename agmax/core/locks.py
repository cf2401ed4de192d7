"""Locks between programs: files that one program at a time may hold, also where the file system has no locks."""

import errno
import fcntl
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedRandom
from pathlib import Path

from agmax.core.logs import log
from agmax.core.storage import CANNOT, explain

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of a file system that has no locks, such as some network file systems."""

POLL_SECONDS = 0.1
"""Seconds between two attempts to take a lock of a file system without locks."""

OWNER = re.compile(r"process (\d+) on (.+) since (\d*) in (.*)", re.DOTALL)
"""The content of a lock: process, machine, start of the process, which tells it from a later one, and namespace."""

_locks: dict[int, int] = {}
"""For each lock that this process holds: its descriptor, and one of /dev/null, open in case no more can be opened."""


def _release_locks_in_child() -> None:
    """Close the locks in a forked child, a data worker for instance: a lock ends with the process that took it."""
    for descriptor, null in _locks.items():
        os.dup2(null, descriptor, inheritable=False)
    _locks.clear()


os.register_at_fork(after_in_child=_release_locks_in_child)


@contextmanager
def open_locked(
    path: Path, *, wait: bool = False, what: str = CANNOT, remedy: str = ""
) -> Iterator[BufferedRandom | None]:
    """Open a file for reading and appending under an exclusive lock; create it if it does not exist.

    If another program holds the lock, the block gets None; with `wait` it waits for the lock. The lock of a killed
    program is released when all processes that inherited the file have ended. If the file system has no locks, a link
    `.<name>.owner` beside the file stands for one: a killed program leaves it, and the next program on the same machine
    removes it.

    Raises:
        OutputError: the file cannot be written.
    """
    with explain(path, what=what, remedy=remedy):
        file, owner_link = _try_open_locked(path, wait=wait)
    if file is None:
        yield None
        return
    try:
        with file:
            yield file
    finally:
        if owner_link is not None:
            with suppress(OSError):
                owner_link.unlink()


@contextmanager
def lock(path: Path) -> Iterator[int | None]:
    """Hold a lock file, write its owner into it if possible, and yield its descriptor.

    It yields None if another program holds the lock.

    Forked children do not keep the lock; a started program does if it is given the descriptor (`pass_fds`).

    Raises:
        OutputError: the file cannot be opened for writing.
    """
    with open_locked(path) as file:
        if file is None:
            yield None
            return
        descriptor = file.fileno()
        with suppress(OSError):  # on a full disk the lock holds, only its owner is not known
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _this_process().encode())
        with explain(path):
            null = os.open(os.devnull, os.O_RDWR)
        _locks[descriptor] = null
        try:
            yield descriptor
        finally:
            _locks.pop(descriptor, None)
            os.close(null)


def lock_owner(path: Path) -> str:
    """Return the owner of a lock file, `process 123 on host`, or `another program` if that is not known.

    A process of this machine is named only if it lives: a lock that a child holds still names its parent.
    """
    link = _owner_link(path)
    try:
        owner = os.readlink(link) if link.is_symlink() else path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "another program"
    match = OWNER.fullmatch(owner)
    return f"process {match[1]} on {match[2]}" if match and not _has_ended(owner) else "another program"


def _this_process() -> str:
    return f"process {os.getpid()} on {platform.node()} since {_start_of(os.getpid())} in {_namespace()}"


def _namespace() -> str:
    """Return the namespace in which process numbers of this program count; nothing where there are none."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_of(process: int) -> str:
    """Return when a process started, in ticks of the system's clock; nothing where the system does not tell."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _has_ended(owner: str) -> bool:
    """Return whether the content of a lock names a process of this machine that has certainly ended.

    A process of another namespace, such as that of a container, cannot be seen from here.
    """
    match = OWNER.fullmatch(owner)
    if match is None or (match[2], match[4]) != (platform.node(), _namespace()):
        return False
    process = int(match[1])
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    start = _start_of(process)  # nothing where /proc hides the processes of other users
    return start != "" and start != match[3]


def _try_open_locked(path: Path, *, wait: bool) -> tuple[BufferedRandom | None, Path | None]:
    """Return the locked file or None, and the link that stands for the lock if the file system has no locks."""
    while True:
        file = path.open("a+b")
        owner_link = None
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                owner_link = _create_owner_link(path, wait=wait)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, owner_link
        except BlockingIOError:
            file.close()
            return None, None
        except BaseException:
            file.close()
            raise
        file.close()  # another program has replaced it in the meantime
        if owner_link is not None:
            owner_link.unlink(missing_ok=True)
        if not wait:
            return None, None


def _owner_link(path: Path) -> Path:
    return path.with_name(f".{path.name}.owner")


def _create_owner_link(path: Path, *, wait: bool) -> Path:
    """Create the link that stands for a lock; its target is no file but names the owner.

    A link is created with its content at once, and never replaces another.

    Raises:
        BlockingIOError: another program holds the lock.
    """
    link = _owner_link(path)
    while True:
        try:
            os.symlink(_this_process(), link)
        except FileExistsError as error:
            if _remove_if_left_over(link):
                continue
            if not wait:
                raise BlockingIOError(errno.EAGAIN, "locked by another program") from error
            time.sleep(POLL_SECONDS)
        else:
            _warn(path.parent)
            return link


@cache
def _warn(folder: Path) -> None:
    log.warning("warning: the file system of %s has no locks; files .*.owner stand for them", folder)


def _remove_if_left_over(link: Path) -> bool:
    """Remove the link of a process that has ended; return whether it is gone."""
    taken = link.with_name(f"{link.name}.tmp-{os.getpid()}")
    try:
        if not _has_ended(os.readlink(link)):
            return False
        os.rename(link, taken)  # of several programs one succeeds
        if not _has_ended(os.readlink(taken)):  # another program has removed it and created its own
            os.rename(taken, link)
            return False
        taken.unlink()
    except FileNotFoundError:
        pass
    return True
