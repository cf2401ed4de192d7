"""Studies that are killed, told to end, or run twice at once: no run is lost and none trained twice."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agmax.experiments.run_folder import RunFolder
from agmax.studies import runner
from helpers.command import Answer
from helpers.places import REPOSITORY
from helpers.processes import start_code
from helpers.studies import SETTINGS, TINY, TUNED, InThisProcess, folders, lines, numbers, stand_in, table, until
from main import main

Call = Callable[..., Answer]

STUDY = """
import os, signal, sys, threading
from agmax.studies import records, runner
from main import main
def leave():
    os.killpg(0, signal.SIGKILL)
append = records.append_record
def appended(*words):
    append(*words)
    threading.Timer(0.5, leave).start()
if sys.argv[1] == "after the first record":
    records.append_record = appended
else:
    runner.program = lambda: [sys.executable, "-c", sys.argv[2]]
sys.exit(main(sys.argv[3:]))
"""
"""A study that is killed with all its processes, or whose runs are trained by a program of the test."""

RUN = """
import os, signal, sys, time
from pathlib import Path
from agmax.training.loop import Trainer
from main import main
step = Trainer.train_step
def stepped(trainer, sample):
    if trainer.step == 3 and "{}" == "kill":
        os.killpg(0, signal.SIGKILL)
    if trainer.step == 3:
        Path("pid").write_text(str(os.getpid()))
        while not Path("go").exists():
            time.sleep(0.02)
    return step(trainer, sample)
Trainer.train_step = stepped
sys.exit(main(sys.argv[1:]))
"""
"""A run that stops in the middle of its second epoch: kills all, or waits for a word."""

THREE = f"""{SETTINGS}
seeds: 3
variants:
  plain: {{train.epochs: 2}}
"""


def start(*words: str) -> Any:
    """Start a study in a process group of its own."""
    return start_code(STUDY, *words, "--study", "./tiny.yaml", folder=Path.cwd(), PYTHONPATH=str(REPOSITORY))


def end_of(process: Any) -> int | None:
    """Return the exit code of a process when it has ended."""
    process.join(120)
    code: int | None = process.exitcode
    return code


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_killed_twice_a_study_ends_with_the_same_records_and_the_same_table(
    run: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("tiny.yaml").write_text(THREE)
    assert end_of(start("after the first record", "")) == -signal.SIGKILL
    assert len(lines()) == 1
    first = Path("runs/tiny-plain/digits-s0/result.json")
    before = first.stat().st_mtime_ns

    assert end_of(start("in the middle of a run", RUN.format("kill"))) == -signal.SIGKILL
    assert len(lines()) == 1 and folders() == ["tiny-plain/digits-s0", "tiny-plain/digits-s1"]
    broken = RunFolder(Path("runs/tiny-plain/digits-s1"))
    assert len(broken.rows()) == 1 and broken.read_json("result.json") is None

    trained = stand_in(monkeypatch, InThisProcess)
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 0 and "3 runs, 1 finished, 2 to run" in answer.err
    assert trained.num_started == 2
    assert "continuing after step 2 of 4" in (broken.path / "train.log").read_text()
    assert folders() == [f"tiny-plain/digits-s{seed}" for seed in range(3)] and len(lines()) == 3
    assert first.stat().st_mtime_ns == before
    killed, killed_table = numbers(), table()

    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    monkeypatch.chdir(undisturbed)
    Path("tiny.yaml").write_text(THREE)
    assert main(["--study", "./tiny.yaml"]) == 0
    assert killed == numbers()
    assert killed_table == table()


def test_a_run_whose_study_was_killed_is_waited_for_and_not_trained_twice(
    run: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tiny.yaml").write_text(THREE.replace("seeds: 3", "seeds: 2"))
    first = start("", RUN.format("wait"))
    orphan = 0
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if Path("go").exists():
            time.sleep(0.02)
            return
        assert is_alive(orphan) and [each["seed"] for each in lines()] == [1]
        assert folders() == ["tiny-plain/digits-s0", "tiny-plain/digits-s1"]
        if len(waited) == 3:
            Path("go").touch()

    try:
        until(lambda: Path("pid").exists() and Path("pid").read_text())
        orphan = int(Path("pid").read_text())
        os.kill(first.pid, signal.SIGKILL)
        end_of(first)
        trained = stand_in(monkeypatch, InThisProcess)
        monkeypatch.setattr(runner, "time", SimpleNamespace(sleep=sleep))
        answer = run("--study", "./tiny.yaml")
    finally:
        os.killpg(first.pid, signal.SIGKILL) if is_alive(orphan) else None
    assert answer.status == 0
    assert trained.num_started == 1  # the other one
    assert len(waited) >= 3 and answer.err.count("other processes train: 1") == 1
    assert [each["seed"] for each in lines()] == [1, 0] and len(folders()) == 2


def test_on_sigterm_a_study_ends_its_trainings_and_returns_143(
    run: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sleeper = "import os, time; name = str(os.getpid()); open(name + '.pid', 'w'); time.sleep(30)"
    monkeypatch.setattr(runner, "program", lambda: [sys.executable, "-S", "-c", sleeper])
    Path("tiny.yaml").write_text(TINY)

    def not_ours(number: int, frame: Any) -> None:
        raise AssertionError("the study has not set its handler")

    def tell() -> None:
        until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, not_ours)
    try:
        teller = threading.Thread(target=tell)
        teller.start()
        answer = run("--study", "./tiny.yaml", "--jobs", "2")
        teller.join()
        assert signal.getsignal(signal.SIGTERM) is not_ours
    finally:
        signal.signal(signal.SIGTERM, before)
    assert answer.status == 143
    processes = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(processes) == 2 and not any(is_alive(process) for process in processes)
    assert not Path("results/tiny.jsonl").exists() and "failed" not in answer.err


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Run two studies at the same time over the same folders; threads stand for their processes."""
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.02)

    def call(*words: str) -> list[int]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(main, [["--study", "./tiny.yaml", *words]] * 2))

    return call


def test_two_studies_at_once_train_every_run_once(run: Call, made_up: Any, at_once: Any) -> None:
    Path("tiny.yaml").write_text(TINY.replace("seeds: 2", "seeds: 10"))
    assert at_once("--jobs", "2") == [0, 0]
    assert made_up.num_started == 20
    assert len(folders()) == 20 and len(lines()) == 20 and len(numbers()) == 20


def test_two_studies_at_once_make_one_choice(run: Call, made_up: Any, at_once: Any) -> None:
    Path("tiny.yaml").write_text(TUNED)
    assert at_once("--jobs", "2") == [0, 0]
    assert made_up.num_started == 12 and len(lines()) == 12
    assert list(Path("results").glob("*.yaml")) == [Path("results/tiny.chosen.yaml")]
