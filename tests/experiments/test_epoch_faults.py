"""What fails between two epochs loses nothing: the state is saved before, and the resumed training is bit-exact."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agmax.checkpoints.read import load
from agmax.core.errors import OutputError
from agmax.evaluation import predict
from agmax.experiments.run_folder import RunFolder
from agmax.training.checkpoint_folder import CheckpointFolder
from agmax.training.loop import Trainer
from helpers.training import TINY, Run, assert_same_weights, interrupted_and_resumed, loss_log, rows
from main import main

WORDS = ("--config=ResNet8-cutmix-agmax", "--train", *TINY)
FOLDER = Path("runs/ResNet8-cutmix-agmax/digits-s0")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a training in which nothing fails."""
    folder = tmp_path_factory.mktemp("quiet")
    assert main([*WORDS, f"train.runs_dir={folder}"]) == 0
    return folder / FOLDER.relative_to("runs")


def assert_same_curves(folder: Path) -> None:
    """Check that TensorBoard shows each epoch once, as metrics.jsonl does."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("train_loss")}
    assert shown == pytest.approx({row["step"]: row["train_loss"] for row in rows(folder)}, rel=1e-6)
    assert len(events.Scalars("train_loss")) == len(shown)


def fail_after_epoch_1(patch: pytest.MonkeyPatch, owner: Any, name: str, fault: Callable[[], Any]) -> None:
    """Call `fault` first wherever `name` is called after the last step of the first epoch."""
    original, finish = getattr(owner, name), Trainer.finish_epoch
    step = 0

    def noting(trainer: Trainer, **times: Any) -> None:
        nonlocal step
        step = trainer.step
        finish(trainer, **times)

    def failing(*arguments: Any, **named: Any) -> Any:
        return (fault() if step == 4 else None) or original(*arguments, **named)

    patch.setattr(Trainer, "finish_epoch", noting)
    patch.setattr(owner, name, failing)


def fail(error: BaseException) -> Callable[[], Any]:
    def fault() -> None:
        raise error

    return fault


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

FAULTS: dict[str, tuple[Any, str, Callable[[], Any], int]] = {  # where, what happens there, exit code
    "the evaluation raises": (predict, "metrics", fail(ValueError("shapes")), 1),
    "a metric has no JSON": (predict, "metrics", lambda: {"top1": 0.0, "nll": 0.0, "mine": object()}, 1),
    "a metric is no number": (predict, "metrics", lambda: {"top1": 0.0, "nll": float("nan")}, 7),
    "the best is not copied": (CheckpointFolder, "keep_best", fail(OutputError("disk full")), 6),
    "the row is not written": (RunFolder, "append", fail(OutputError("disk full")), 6),
    "TensorBoard's folder is gone": (Trainer, "_check_finite", lambda: shutil.rmtree(FOLDER / "tensorboard", True), 6),
    "the log raises": (Trainer, "_log_row", fail(FULL), 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_after_an_epoch_loses_nothing_of_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path, fault: str
) -> None:
    owner, name, action, code = FAULTS[fault]
    with monkeypatch.context() as patch:
        fail_after_epoch_1(patch, owner, name, action)
        if code == 1:
            with pytest.raises((ValueError, TypeError, OSError)):
                run(*WORDS)
        else:
            answer = run(*WORDS)
            assert answer.status == code and answer.err.count("error: ") == 1, answer.err
            assert "Traceback" not in answer.err
    state = json.loads((FOLDER / "state.json").read_text())
    assert (state["state"], state["exit_code"]) == ("failed", code)
    assert [path.name for path in CheckpointFolder(FOLDER / "checkpoints").list_checkpoints()][
        -1
    ] == "step-00000004.pth"
    answer = run(*WORDS, "--resume")
    assert answer.status == 0 and "continuing after step 4 of 12" in answer.err, answer.err
    assert loss_log(FOLDER) == loss_log(quiet)
    for path in ("step-00000012.pth", "best.pth"):
        assert_same_weights(FOLDER / "checkpoints" / path, quiet / "checkpoints" / path)
    if fault not in ("TensorBoard's folder is gone", "the log raises"):
        assert_same_curves(FOLDER)


def test_a_resumed_training_shows_each_epoch_once_in_tensorboard(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the epochs after the checkpoint are written again, and TensorBoard drops their first points."""
    assert run(*WORDS).status == 0
    (FOLDER / "result.json").unlink()
    (FOLDER / "checkpoints/step-00000012.pth").write_bytes(b"damaged")
    answer = run(*WORDS, "--resume")
    assert answer.status == 0 and "continuing after step 8 of 12" in answer.err
    assert_same_curves(FOLDER)


@pytest.mark.parametrize(
    ("step", "scores"),
    [
        (5, [3.0, 2.0, 1.0]),
        (9, [1.0, 3.0, 3.0]),
        (5, [2.0, 2.0, 2.0]),
        (9, [float("nan"), 0.0, 0.0]),
        (5, [0.0, 1.0, 0.5]),
    ],
)
def test_the_best_is_the_first_of_the_highest_before_and_after_an_interruption(
    run: Run, monkeypatch: pytest.MonkeyPatch, step: int, scores: list[float]
) -> None:
    original = predict.metrics

    def scored(*arguments: Any) -> dict[str, float]:
        return original(*arguments) | {"top1": next(values)}

    done = scores[: step // 4]  # the epochs before the interruption, then the others
    values = iter([*done, *scores[len(done) :]])
    monkeypatch.setattr(predict, "metrics", scored)
    best = interrupted_and_resumed(run, monkeypatch, step, *WORDS)["best"]
    highest = max(score for score in scores if score == score)
    assert best["epoch"] == scores.index(highest) + 1
    assert load(FOLDER / "checkpoints/best.pth")["step"] == 4 * best["epoch"]
