"""A stop signal ends a training after a step that is saved, and --resume continues it to the same bits."""

import importlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agmax.core import signals
from agmax.core.errors import ResourceError
from agmax.evaluation import predict
from agmax.experiments import api
from agmax.experiments.environment import continue_command
from agmax.training.checkpoint_folder import CheckpointFolder
from agmax.training.loop import Trainer
from helpers.command import Answer
from helpers.images import write_tree
from helpers.processes import Process, steps_of
from helpers.training import TINY, assert_same_weights, loss_log

Run = Callable[..., Answer]
WORDS = ("--config=ResNet8-cutmix-agmax", *TINY)
FOLDER = Path("runs/ResNet8-cutmix-agmax/digits-s0")
NUM_STEPS = 12


def send_at(patch: pytest.MonkeyPatch, owner: Any, name: str, number: int, *, call: int = 1, times: int = 1) -> None:
    """Send this process a signal in the given call of a function, before the function runs."""
    original, calls = getattr(owner, name), []

    def sending(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    patch.setattr(owner, name, sending)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nobody stops."""
    folder = tmp_path_factory.mktemp("quiet")
    assert Process((*WORDS, "--train"), folder).wait() == 0
    return folder / FOLDER


def assert_continues_to_the_same(run: Run, quiet: Path) -> None:
    answer = run(*WORDS, "--train", "--resume", "auto")
    assert answer.status == 0, answer.err
    assert loss_log(FOLDER) == loss_log(quiet)
    last = f"checkpoints/step-{NUM_STEPS:08d}.pth"
    assert_same_weights(FOLDER / last, quiet / last)
    assert json.loads((FOLDER / "state.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("step", [1, 4, 6, 12])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_a_signal_ends_a_training_after_a_saved_step(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path, name: str, step: int
) -> None:
    number = signal.Signals[name]
    with monkeypatch.context() as patch:
        send_at(patch, Trainer, "train_step", number, call=step)
        answer = run(*WORDS, "--train")
    assert answer.status == 128 + number
    reason = f"stopped by {name} after step {step} of 12, which is saved"
    assert answer.err.splitlines()[-1] == f"error: {reason}. Continue with {continue_command(FOLDER)}"
    assert CheckpointFolder(FOLDER / "checkpoints").list_checkpoints()[-1].name == f"step-{step:08d}.pth"
    state = json.loads((FOLDER / "state.json").read_text())
    assert (state["state"], state["reason"], state["exit_code"]) == ("stopped", reason, 128 + number)
    assert (FOLDER / "train.log").read_text().splitlines()[-1] == f"{reason} (exit code {128 + number})"
    assert_continues_to_the_same(run, quiet)


def test_a_signal_during_a_save_ends_the_training_after_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path
) -> None:
    with monkeypatch.context() as patch:
        send_at(patch, CheckpointFolder, "save", signal.SIGTERM)
        assert run(*WORDS, "--train").status == 143
    assert [path.name for path in CheckpointFolder(FOLDER / "checkpoints").list_checkpoints()] == ["step-00000004.pth"]
    assert_continues_to_the_same(run, quiet)


def test_a_signal_during_an_evaluation_ends_it_at_once(run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path) -> None:
    with monkeypatch.context() as patch:
        send_at(patch, predict, "normalize", signal.SIGTERM, call=2)
        answer = run(*WORDS, "--train")
    assert answer.status == 143 and f"--train --resume {FOLDER}" in answer.err
    assert not (FOLDER / "metrics.jsonl").exists() and (FOLDER / "checkpoints" / "step-00000004.pth").exists()
    assert_continues_to_the_same(run, quiet)


def test_a_signal_that_ends_the_workers_too_saves_the_last_step(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path
) -> None:
    original, calls = Trainer.train_step, []

    def dying(trainer: Trainer, raw: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGHUP)
            raise ResourceError("a data worker was killed")
        return original(trainer, raw)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", dying)
        answer = run(*WORDS, "--train")
    assert answer.status == 129 and "stopped by SIGHUP after step 5 of 12, which is saved" in answer.err
    assert_continues_to_the_same(run, quiet)


def test_a_signal_in_the_set_up_ends_the_program_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from agmax import builders

    send_at(monkeypatch, builders, "splits", signal.SIGTERM)
    answer = run(*WORDS, "--train")
    assert answer.status == 143 and answer.err == "error: stopped by SIGTERM\n" and not FOLDER.exists()


def test_a_second_ctrl_c_leaves_at_once_and_the_previous_checkpoint_is_intact(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path
) -> None:
    with monkeypatch.context() as patch:
        send_at(patch, Trainer, "train_step", signal.SIGINT, call=6, times=2)
        assert run(*WORDS, "--train").status == 130
    assert [path.name for path in CheckpointFolder(FOLDER / "checkpoints").list_checkpoints()] == ["step-00000004.pth"]
    assert_continues_to_the_same(run, quiet)


def test_a_signal_that_is_ignored_at_the_start_stays_ignored(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        send_at(monkeypatch, Trainer, "train_step", signal.SIGHUP, call=3)
        assert run(*WORDS, "--train").status == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_restored_and_the_first_signal_counts() -> None:
    before = [signal.getsignal(number) for number in signals.STOP_SIGNALS]
    with signals.stop_at_once(), signals.defer_stop() as pending:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert pending.signal_number == signal.SIGTERM
    assert [signal.getsignal(number) for number in signals.STOP_SIGNALS] == before
    with pytest.raises(signals.Stopped, match="stopped by SIGUSR1") as stop, signals.stop_at_once():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.value.exit_code == 138


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_a_callback_that_drops_exceptions_still_counts() -> None:
    class Dropping:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    def fail() -> None:
        with signals.stop_at_once():
            Dropping()
            raise ResourceError("a data worker was killed")

    with signals.stop_at_once():
        Dropping()
        with signals.defer_stop() as pending:
            assert pending.signal_number == signal.SIGTERM
    with pytest.raises(signals.Stopped, match="stopped by SIGTERM"):
        fail()


def test_the_time_limit_saves_and_stops(run: Run, quiet: Path) -> None:
    answer = run(*WORDS, "--train", "train.time_limit=1e-9")
    assert answer.status == 138 and "stopped by train.time_limit=1e-09 after step 1 of 12, which is saved" in answer.err
    assert_continues_to_the_same(run, quiet)


def test_the_time_limit_counts_from_the_start_of_the_program(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    an_hour_ago = SimpleNamespace(perf_counter=lambda: time.perf_counter() - 3600)
    for program in (importlib.import_module("agmax.cli.commands.train"), api):
        monkeypatch.setattr(program, "time", an_hour_ago)
    assert run(*WORDS, "--train", "train.time_limit=61").status == 0
    answer = run(*WORDS, "--train", "train.time_limit=59")
    assert answer.status == 138 and "stopped by train.time_limit=59 after step 1 of 12" in answer.err
    with pytest.raises(signals.Stopped, match="after step 1 of 12"):
        api.train(f"{FOLDER}-2/config.yaml", overrides={"train.time_limit": 59.0})


def test_checkpoints_are_saved_after_some_minutes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    original = CheckpointFolder.save

    def record(folder: CheckpointFolder, step: int, state: Any) -> None:
        saved.append(step)
        original(folder, step, state)

    monkeypatch.setattr(CheckpointFolder, "save", record)
    assert run(*WORDS, "--train", "train.epochs=1", "train.save_every_minutes=1e-9").status == 0
    assert saved == [1, 2, 3, 4]
    saved.clear()
    assert run(*WORDS, "--train", "train.epochs=1", "train.save_every_minutes=null").status == 0
    assert saved == [4]


def test_some_checkpoints_are_kept_for_good(run: Run) -> None:
    assert run(*WORDS, "--train", "train.epochs=6", "train.keep_every_epochs=2").status == 0
    kept = [path.name for path in CheckpointFolder(FOLDER / "checkpoints").list_checkpoints()]
    assert kept == [f"step-{step:08d}.pth" for step in (8, 16, 20, 24)]


def test_auto_starts_a_training_and_a_folder_without_files_counts_as_started(run: Run) -> None:
    (FOLDER / "checkpoints").mkdir(parents=True)
    assert run(*WORDS, "--train", "--resume", "auto").status == 0
    assert [path.name for path in FOLDER.parent.iterdir()] == [FOLDER.name]
    again = run(*WORDS, "--train", "--resume=auto")
    assert again.status == 0 and "is finished" in again.err


@pytest.mark.parametrize("resume", [("--resume",), ("--resume", "auto")])
def test_an_empty_folder_does_not_hide_a_run_that_has_begun(
    run: Run, monkeypatch: pytest.MonkeyPatch, resume: tuple[str, ...]
) -> None:
    with monkeypatch.context() as patch:
        send_at(patch, Trainer, "train_step", signal.SIGTERM, call=6)
        run(*WORDS, "--train")
    empty = Path(f"{FOLDER}-2")
    (empty / "checkpoints").mkdir(parents=True)
    assert run(*WORDS, "--eval", "--resume").status == 0
    answer = run(*WORDS, "--train", *resume)
    assert answer.status == 0 and "continuing after step 6 of 12" in answer.err
    assert not (empty / "config.yaml").exists()


@pytest.mark.parametrize("words", [("evaluation.every_epochs=2",), ("--occlusion",), ("evaluation.batch_size=7",)])
def test_what_does_not_change_the_training_does_not_hinder_its_continuation(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    with monkeypatch.context() as patch:
        send_at(patch, Trainer, "train_step", signal.SIGTERM, call=6)
        run(*WORDS, "--train")
    for resume in ("--resume", f"--resume={FOLDER}"):
        answer = run(*WORDS, *words, "--train", resume)
        assert answer.status == 0 and [path.name for path in FOLDER.parent.iterdir()] == [FOLDER.name]


def test_a_prolonged_training_keeps_its_best_epoch(run: Run) -> None:
    assert run(*WORDS, "--train").status == 0
    rows = [json.loads(line) for line in (FOLDER / "metrics.jsonl").read_text().splitlines()]
    rows[1]["test_top1"] = 99.0
    (FOLDER / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (FOLDER / "checkpoints" / "best.pth").write_bytes(b"of epoch 2")
    answer = run("--train", f"--resume={FOLDER}", "train.epochs=5", "--json")
    assert answer.status == 0 and answer.json["best"]["epoch"] == 2
    longer = Path(answer.json["run_folder"])
    assert (longer / "checkpoints" / "best.pth").read_bytes() == b"of epoch 2"
    assert [json.loads(line)["epoch"] for line in (longer / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
        5,
    ]


# --- the storm -----------------------------------------------------------------------------------------------------


def assert_same_run(first: Path, second: Path) -> None:
    """Compare metrics and weights of the only run in each folder, and look for leftovers."""
    [one], [two] = ([path.parent for path in folder.glob("runs/*/*/result.json")] for folder in (first, second))
    assert loss_log(two) == loss_log(one)
    last = CheckpointFolder(one / "checkpoints").list_checkpoints()[-1].name
    assert_same_weights(one / "checkpoints" / last, two / "checkpoints" / last)
    assert [path.name for path in two.rglob(".*.tmp-*")] == []
    assert [path.name for path in two.parent.iterdir()] == [one.name]


@pytest.mark.parametrize("num_kills", [8, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["digits", "folder"])
def test_a_storm_of_signals_ends_in_the_bits_of_a_quiet_training(tmp_path: Path, kind: str, num_kills: int) -> None:
    """Each process ends by a random signal at a random time, and is restarted at once with --resume auto."""
    words: tuple[str, ...] = WORDS
    if kind == "folder":
        photos = write_tree(tmp_path / "photos", ["ant", "bee", "cat", "dog"], {"train": 12, "test": 4})
        words = ("--config=ResNet8-cutmix-agmax", "--dataset=folder", f"dataset.root={photos}", "train.epochs=3")
        words += ("dataset.image_size=32", "train.batch_size=8", "train.num_workers=2")
    words += ("--train", "--resume", "auto", "train.save_every_steps=2")
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    assert Process(("--list", "models"), tmp_path).wait() == 0  # the first process waits for the server's imports
    start = time.monotonic()
    assert Process(words, quiet).wait() == 0
    duration, seed = time.monotonic() - start, random.randrange(10**6)
    print(f"seed {seed}")
    rng, num_sent, num_finished = random.Random(seed), 0, 0
    while num_sent < num_kills:
        stormy, last_stopped = tmp_path / f"stormy{num_finished}", 0
        stormy.mkdir()
        code = 1
        while code:
            num_before = len(steps_of(stormy))
            process = Process(words, stormy)
            number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
            if num_sent < num_kills:
                time.sleep(rng.uniform(0, duration))
                process.send(number, to_group=rng.random() < 0.5)
                num_sent += 1
            code = process.wait()
            is_killed = number == signal.SIGKILL or not process.has_begun
            if process.has_begun:  # signals are handled from main() on
                assert code in (0, -number if is_killed else 128 + number), process.stderr.read_text()
            done = steps_of(stormy)
            if last_stopped and len(done) > num_before:
                assert done[num_before] >= last_stopped  # at most one step is repeated after a signal it can handle
            last_stopped = done[-1] if len(done) > num_before and not is_killed else 0
        num_finished += 1
        assert_same_run(quiet, stormy)
