"""Programs in processes of their own, to be signalled and killed for real.

They are forked from a server that has imported the program and computed nothing, so that each starts at once.
"""

import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agmax.core.signals import STOP_SIGNALS

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


CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000
"""Linux's constants; os.unshare came with Python 3.12."""


def become_process_1() -> None:
    """Go on as process 1 of new namespaces; a parent outside waits, writes our number outside to `pid`, exits as we do.

    Exit code 98 says that this system has no user namespaces.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0:
        os._exit(98)
    child = os.fork()
    if child:
        Path("pid.new").write_text(str(child))
        os.rename("pid.new", "pid")
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def _run(words: Sequence[str], folder: Path, streams: tuple[str, str, str], is_process_1: bool) -> None:
    """Run main() as the leader of a process group, with the streams at these paths, and exit with its status."""
    code = 99
    try:
        os.setsid()
        os.chdir(folder)
        modes = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        opened = [os.open(path, mode | os.O_NOCTTY) if path else -1 for path, mode in zip(streams, modes, strict=True)]
        for descriptor, stream in enumerate(opened):
            os.dup2(stream, descriptor) if stream >= 0 else os.close(descriptor)
        files: list[Any] = [
            os.fdopen(descriptor, "w" if descriptor else "r") if stream >= 0 else None
            for descriptor, stream in enumerate(opened)
        ]
        sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = files  # type: ignore[misc]
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        if is_process_1:
            become_process_1()
        multiprocessing.set_start_method("fork", force=True)  # data workers start as in a program of its own
        record_steps()
        code = importlib.import_module("main").main(list(words))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


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
