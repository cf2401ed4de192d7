"""Programs in processes of their own, to be signalled and killed for real.

They are forked from a server that has imported the program and computed nothing, so that each starts at once.
"""

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


def _run(words: Sequence[str], folder: Path) -> None:
    """Run main() as the leader of a process group, with stderr in a file, and exit with its status."""
    code = 99
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor, stream in enumerate(
            (os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY), output)
        ):
            os.dup2(stream, descriptor)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        multiprocessing.set_start_method("fork", force=True)  # data workers start as in a program of its own
        record_steps()
        code = importlib.import_module("main").main(list(words))
        sys.stderr.flush()
    finally:
        os._exit(code)


class Process:
    """main() in a child process; its stderr and the steps it trained are in files of the folder."""

    def __init__(self, words: Sequence[str], folder: Path) -> None:
        self.stderr = folder / "stderr"
        self.stderr.unlink(missing_ok=True)
        self._process = CONTEXT.Process(target=_run, args=(words, folder), daemon=False)
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
