"""Programs in processes of their own, to be signalled and killed for real.

They are forked from a server that has imported the program and computed nothing, so that each starts at once.
"""

import ctypes
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agmax.core.signals import STOP_SIGNALS
from helpers.places import skip_or_fail

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["agmax.cli.commands.train", "helpers.processes", "main"])


def record_steps() -> None:
    """Let every training step of this process append its number to the file `steps`."""
    from agmax.training.loop import Trainer

    original = Trainer.train_step

    def recorded(trainer: Trainer, raw: Any) -> Any:
        terms = original(trainer, raw)
        with open("steps", "a") as file:
            file.write(f"{trainer.step + 1}\n")
        return terms

    Trainer.train_step = recorded  # type: ignore[method-assign]


CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
"""Linux's constants; os.unshare came with Python 3.12."""

CODE_SECONDS = 120.0
"""Seconds that a process of `run_code` may take."""

NO_NAMESPACES = 98
"""Exit code that says that this system has no user namespaces."""


def unshare(flags: int) -> None:
    """Enter new namespaces, or exit with NO_NAMESPACES."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | flags) != 0:
        os._exit(NO_NAMESPACES)


def may_mount() -> None:
    """Go on as root of a namespace in which file systems can be mounted."""
    user, group = os.getuid(), os.getgid()
    unshare(CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if ctypes.CDLL(None, use_errno=True).mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        os._exit(NO_NAMESPACES)


def become_process_1() -> None:
    """Go on as process 1 of new namespaces; a parent outside writes our number there to `pid` and exits as we do."""
    unshare(CLONE_NEWPID)
    child = os.fork()
    if child:
        Path("pid.new").write_text(str(child))
        os.rename("pid.new", "pid")
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def _enter(folder: Path, streams: tuple[str, str, str]) -> None:
    """Be like a program just started: leader of a process group, in a folder, with the streams at these paths."""
    os.setsid()
    os.chdir(folder)
    created = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    modes = (os.O_RDONLY, created, created)
    opened = [os.open(path, mode | os.O_NOCTTY) if path else -1 for path, mode in zip(streams, modes, strict=True)]
    for descriptor, stream in enumerate(opened):
        os.dup2(stream, descriptor) if stream >= 0 else os.close(descriptor)
    for stream in opened:
        if stream > 2:
            os.close(stream)
    files: list[Any] = [
        os.fdopen(descriptor, "w" if descriptor else "r") if stream >= 0 else None
        for descriptor, stream in enumerate(opened)
    ]
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = files  # type: ignore[misc]
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    multiprocessing.set_start_method("fork", force=True)  # data workers start as in a program of its own


def _run(words: Sequence[str], folder: Path, streams: tuple[str, str, str], is_process_1: bool) -> None:
    """Run main() and exit with its status."""
    code = 99
    try:
        _enter(folder, streams)
        if is_process_1:
            become_process_1()
        record_steps()
        code = importlib.import_module("main").main(list(words))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run_code(code: str, words: Sequence[str], folder: Path, environment: Mapping[str, str], mounts: bool) -> None:
    """Run Python code and exit with its status."""
    status = 99
    try:
        _enter(folder, (os.devnull, "code.stdout", "code.stderr"))
        os.environ |= environment
        tempfile.tempdir = None
        sys.argv = ["-c", *words]
        if mounts:
            may_mount()
        try:
            exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def start_code(code: str, *words: str, folder: Path, mounts: bool = False, **environment: str) -> Any:
    """Start a process that runs Python code as `run_code` does, as the leader of a process group."""
    process = CONTEXT.Process(target=_run_code, args=(code, words, folder, environment, mounts))
    process.start()
    return process


def run_code(
    code: str, *words: str, folder: Path, mounts: bool = False, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run Python code in a folder as `python3 -c CODE WORDS` would, but with the program imported already.

    With `mounts` it can mount file systems, in a namespace of its own; without namespaces the test is skipped.
    """
    process = start_code(code, *words, folder=folder, mounts=mounts, **environment)
    process.join(CODE_SECONDS)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        raise AssertionError(f"not ended after {CODE_SECONDS:g} s: {(folder / 'code.stderr').read_text()[-2000:]}")
    if process.exitcode == NO_NAMESPACES:
        skip_or_fail("needs user namespaces")
    out, err = (
        (folder / name).read_text(encoding="utf-8", errors="surrogateescape") for name in ("code.stdout", "code.stderr")
    )
    for name in ("code.stdout", "code.stderr"):
        (folder / name).unlink()
    return subprocess.CompletedProcess([code, *words], process.exitcode, out, err)


class Process:
    """main() in a child process; its stderr and the steps it trained are in files of the folder."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        *,
        streams: tuple[str, str, str] = (os.devnull, os.devnull, "stderr"),
        is_process_1: bool = False,
    ) -> None:
        """`streams` are the paths of stdin, stdout and stderr; an empty one is closed."""
        self.stderr = folder / "stderr"
        for name in ("stderr", "pid"):
            (folder / name).unlink(missing_ok=True)
        self._process = CONTEXT.Process(target=_run, args=(words, folder, streams, is_process_1), daemon=False)
        self._process.start()

    def send(self, number: int, *, to_group: bool = False) -> None:
        """Send a signal to the process, or to its workers as well; nothing happens if it has ended."""
        pid = self._process.pid
        assert pid is not None
        if self._process.is_alive():
            try:
                os.killpg(pid, number) if to_group else os.kill(pid, number)
            except ProcessLookupError:  # it has not made its group yet, or has just ended
                os.kill(pid, number)

    @property
    def has_begun(self) -> bool:
        """Return whether main() has printed something."""
        return self.stderr.exists() and self.stderr.stat().st_size > 0

    def wait(self, seconds: float = 60) -> int:
        """Return the exit code, -n if signal n has killed the process."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            raise AssertionError(f"not ended after {seconds} s: {self.stderr.read_text()[-2000:]}")
        return self._process.exitcode


def steps_of(folder: Path) -> list[int]:
    """Return the steps that all processes in a folder have trained, in their order."""
    path = folder / "steps"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []
