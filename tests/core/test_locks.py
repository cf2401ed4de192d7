"""Locks between programs, on file systems with and without them."""

import errno
import multiprocessing
import os
import platform
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agmax.core import locks
from agmax.core.errors import OutputError
from helpers.places import REPOSITORY


def test_a_lock_names_its_owner_and_has_only_one(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("process 1 on another host")
    with locks.lock(path) as first:
        assert first is not None
        with locks.lock(path) as second:
            assert second is None
        assert locks.lock_owner(path) == f"process {os.getpid()} on {platform.node()}"
    with locks.lock(path) as third:
        assert third is not None
    with pytest.raises(OutputError), locks.lock(tmp_path / "nowhere" / ".lock"):
        pass


HOLD = """
import sys
import threading
from pathlib import Path
from agmax.core import locks
with locks.lock(Path(".lock")) as held:
    print(held is not None, flush=True)
    sys.stdin.read()
"""


def test_the_lock_of_a_killed_program_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-c", HOLD]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        with locks.lock(tmp_path / ".lock") as ours:
            assert ours is None
        assert locks.lock_owner(tmp_path / ".lock").startswith(f"process {other.pid} on ")
        other.kill()
        other.wait()
    with locks.lock(tmp_path / ".lock") as ours:
        assert ours is not None


def test_a_file_that_is_replaced_during_the_wait_for_its_lock_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    flock, calls = locks.fcntl.flock, []

    def replace_then_lock(file: Any, how: int) -> None:
        if not calls:
            path.unlink()
            path.write_bytes(b"new")
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(locks.fcntl, "flock", replace_then_lock)
    with locks.open_locked(path, wait=True) as file:
        assert file is not None
        file.seek(0)
        assert file.read() == b"new" and len(calls) == 2


def test_an_error_in_a_block_that_holds_a_lock_is_not_changed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locks.lock(tmp_path / ".lock"):
        (tmp_path / "nowhere").read_bytes()


def test_a_lock_whose_owner_cannot_be_written_holds(tmp_path: Path) -> None:
    path, before = tmp_path / ".lock", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with locks.lock(path) as first:
            assert first is not None
            with locks.lock(path) as second:
                assert second is None
            assert locks.lock_owner(path) == "another program"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
def test_a_lock_is_not_kept_by_forked_children(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with locks.lock(tmp_path / "lock") as first:
        assert first is not None
        is_running = context.Event()
        child = context.Process(target=lambda: (is_running.set(), time.sleep(60)), daemon=True)
        child.start()
        assert is_running.wait(30)
    with locks.lock(tmp_path / "lock") as second:
        assert second is not None and child.is_alive()
    child.kill()
    child.join()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
def test_a_child_that_can_open_no_more_files_keeps_no_lock_either(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    read, write = os.pipe()
    with locks.lock(tmp_path / "lock") as first:
        assert first is not None
        spare = os.dup(first)
        os.close(spare)
        assert spare > first  # with this limit all open files are kept, and none is opened
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, before[1]))
        try:
            child = os.fork()
            if child == 0:
                try:
                    os.write(write, b"!")
                    time.sleep(60)
                finally:
                    os._exit(0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert os.read(read, 1) == b"!"
    with locks.lock(tmp_path / "lock") as second:
        assert second is not None and os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)


# --- file systems without locks --------------------------------------------------------------------------------------


@pytest.fixture(params=["ENOSYS", "ENOLCK", "ENOTSUP"])
def without_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    number = getattr(errno, request.param)

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    locks._warn.cache_clear()


@pytest.mark.usefixtures("without_flock")
def test_where_the_file_system_has_no_locks_a_link_stands_for_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, link = tmp_path / ".lock", tmp_path / "..lock.owner"
    for _ in range(2):
        with locks.lock(path) as first:
            assert first is not None and os.readlink(link).endswith(f" in {locks._namespace()}")
            with locks.lock(path) as second:
                assert second is None
            assert locks.lock_owner(path) == f"process {os.getpid()} on {platform.node()}"
        assert not link.is_symlink()
    assert [record.message.startswith("warning: the file system of") for record in caplog.records] == [True]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_another_error_of_a_lock_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(OutputError, match=os.strerror(number)), locks.lock(tmp_path / ".lock"):
        pass


def ended_process() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def owner(process: int, *, machine: str = platform.node(), namespace: str | None = None) -> str:
    """Return the content of the lock of a process that began one tick after the machine."""
    return f"process {process} on {machine} since 1 in {locks._namespace() if namespace is None else namespace}"


@pytest.mark.usefixtures("without_flock")
def test_the_link_of_a_killed_program_is_removed_and_that_of_another_machine_is_not(tmp_path: Path) -> None:
    path, link = tmp_path / ".lock", tmp_path / "..lock.owner"
    for ended in (owner(ended_process()), owner(os.getpid())):
        link.symlink_to(ended)  # the second: a later process has the same number
        assert locks.lock_owner(path) == "another program"
        with locks.lock(path) as held:
            assert held is not None
    others = (owner(ended_process(), machine="elsewhere"), owner(ended_process(), namespace="pid:[1]"), "nonsense")
    for other in others:  # the second is in another container of this machine
        link.symlink_to(other)
        with locks.lock(path) as held:
            assert held is None
        assert locks.lock_owner(path) == ("another program" if other == "nonsense" else other.split(" since")[0])
        link.unlink()


@pytest.mark.usefixtures("without_flock")
def test_the_link_of_a_process_that_the_system_hides_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the mount option hidepid, /proc shows no process of another user, to whom no signal may be sent either."""

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    link = tmp_path / "..lock.owner"
    link.symlink_to(owner(os.getppid()))
    monkeypatch.setattr(locks.os, "kill", refuse)
    monkeypatch.setattr(locks, "_start_of", lambda process: "")
    with locks.lock(tmp_path / ".lock") as held:
        assert held is None
    assert link.is_symlink() and locks.lock_owner(tmp_path / ".lock").startswith(f"process {os.getppid()} on ")


@pytest.mark.usefixtures("without_flock")
def test_a_link_is_waited_for(tmp_path: Path) -> None:
    path, is_held = tmp_path / "a", threading.Event()

    def hold() -> None:
        with locks.open_locked(path) as file:
            assert file is not None
            is_held.set()
            time.sleep(0.2)
            file.write(b"done")

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(10)
    with locks.open_locked(path, wait=True) as file:
        assert file is not None
        file.seek(0)
        assert file.read() == b"done"
    thread.join()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
@pytest.mark.parametrize("has_flock", [True, False])
def test_of_ten_programs_that_start_together_one_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_flock: bool
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    if not has_flock:
        monkeypatch.setattr(locks.fcntl, "flock", refuse)
        (tmp_path / "..lock.owner").symlink_to(owner(ended_process()))
    context = multiprocessing.get_context("fork")
    barrier, end, answers = context.Barrier(10), context.Event(), context.SimpleQueue()

    def start() -> None:
        barrier.wait(30)
        with locks.lock(tmp_path / ".lock") as held:
            answers.put(held is not None)
            end.wait(30)

    children = [context.Process(target=start) for _ in range(10)]
    for child in children:
        child.start()
    won = [answers.get() for _ in children]
    end.set()
    for child in children:
        child.join()
    assert sorted(won) == [False] * 9 + [True]


def test_a_lock_names_no_process_that_has_ended(tmp_path: Path) -> None:
    with locks.lock(tmp_path / ".lock"):
        (tmp_path / ".lock").write_text(owner(ended_process()))
        assert locks.lock_owner(tmp_path / ".lock") == "another program"
    assert locks.lock_owner(tmp_path / "nowhere") == "another program"
