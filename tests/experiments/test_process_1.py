"""The program as process 1 of a container, to which the kernel passes only the signals that it handles."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command import Answer
from helpers.places import REPOSITORY, skip_or_fail
from helpers.processes import Process, steps_of
from helpers.training import TINY, assert_same_weights, loss_log

Run = Callable[..., Answer]
WORDS = ("--config=ResNet8-cutmix-agmax", *TINY, "--train", "--resume", "auto")
SLOW_WORDS = (*WORDS, "--import=slow.py")
SLOW = """
import time
from agmax.training.loop import Trainer
original = Trainer.train_step
def slow(trainer, raw):
    if trainer.step in (2, 7):
        time.sleep(0.5)
    return original(trainer, raw)
Trainer.train_step = slow
"""
FOLDER = Path("runs/ResNet8-cutmix-agmax/digits-s0")


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    if subprocess.run(["unshare", "-rpf", "--mount-proc", "true"], capture_output=True).returncode != 0:
        skip_or_fail("needs user and process namespaces")


def handles(pid: int, number: int) -> bool:
    """Return whether a process has a handler of a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_signal_to_process_1_saves_the_step_and_the_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    quiet, stopped = tmp_path / "quiet", tmp_path / "stopped"
    for folder in (quiet, stopped):
        folder.mkdir()
        (folder / "slow.py").write_text(SLOW)
    assert Process(SLOW_WORDS, quiet).wait() == 0
    for number, num_steps in ((signal.SIGTERM, 2), (signal.SIGINT, 7)):
        process = Process(SLOW_WORDS, stopped, is_process_1=True)
        wait_for(lambda: len(steps_of(stopped)) >= num_steps)  # noqa: B023
        os.kill(int((stopped / "pid").read_text()), number)
        assert process.wait() == 128 + number, process.stderr.read_text()
        state = json.loads((stopped / FOLDER / "state.json").read_text())
        assert state["process"] == 1 and f"stopped by {number.name} after step " in state["reason"]
    assert Process(SLOW_WORDS, stopped, is_process_1=True).wait() == 0
    assert steps_of(stopped) == list(range(1, 13))
    assert loss_log(stopped / FOLDER) == loss_log(quiet / FOLDER)
    last = FOLDER / "checkpoints" / "step-00000012.pth"
    assert_same_weights(quiet / last, stopped / last)


@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_process_1_is_stopped_while_it_still_imports(tmp_path: Path, delay: float) -> None:
    """The handlers exist before torch is imported, which takes seconds."""
    program = [sys.executable, str(REPOSITORY / "main.py"), *WORDS]
    outer = subprocess.Popen(
        ["unshare", "-rpf", "--mount-proc", "--kill-child", *program], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    wait_for(lambda: children.read_text().split())
    inner = int(children.read_text())
    wait_for(lambda: b"main.py" in Path(f"/proc/{inner}/cmdline").read_bytes() and handles(inner, signal.SIGTERM))
    start = time.monotonic()
    time.sleep(delay)
    os.kill(inner, signal.SIGTERM)
    assert outer.communicate(timeout=60)[1] == "error: stopped by SIGTERM\n"
    assert outer.returncode == 143 and time.monotonic() - start < 2
    assert list(tmp_path.iterdir()) == []
