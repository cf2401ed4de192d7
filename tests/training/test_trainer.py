"""Trainings that diverge, fail or have little data, and the checkpoints that they keep."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agmax.checkpoints.read import load
from helpers.training import TINY, Run, train


def test_disk_use_is_bounded(run: Run) -> None:
    result = train(run, "ResNet8-standard", "train.epochs=6", "train.save_every_steps=1")
    names = sorted(path.name for path in Path(result["run_folder"], "checkpoints").iterdir())
    assert names == ["best.pth", "step-00000023.pth", "step-00000024.pth"]


@pytest.mark.parametrize(
    "scores", [[0.0, 0.0, 0.0], [float("nan"), 5.0, float("nan")], [50.0, 50.0, 40.0], [1.0, 3.0, 2.0]]
)
def test_the_best_epoch_is_the_first_of_the_highest(
    run: Run, monkeypatch: pytest.MonkeyPatch, scores: list[float]
) -> None:
    from agmax.evaluation import predict

    values = iter([*scores, *scores])
    monkeypatch.setattr(predict, "metrics", lambda *_: {"top1": next(values), "top5": 0.0, "nll": 0.0, "ece": 0.0})
    result = train(run, "ResNet8-standard")
    highest = max((score for score in scores if score == score), default=0.0)
    assert result["best"]["epoch"] == scores.index(highest) + 1
    assert load(Path(result["run_folder"], "checkpoints/best.pth"))["step"] == 4 * result["best"]["epoch"]


def test_a_diverged_training_ends_before_its_weights_are_saved(run: Run) -> None:
    for number, words in (("", []), ("-2", ["train.batch_size=100", "train.epochs=1"]), ("-3", ["train.epochs=900"])):
        answer = run("--config=ResNet8-standard", "--train", *TINY, "optimizer.lr=1e30", *words)
        assert answer.status == 7, answer.err
        assert "Lower optimizer.lr" in answer.err
        assert not Path(f"runs/ResNet8-standard/digits-s0{number}/checkpoints/best.pth").exists()


def test_an_output_folder_that_is_a_file_is_found_before_the_data_are_read(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agmax import builders

    monkeypatch.setattr(builders, "splits", lambda config: pytest.fail("data were read"))
    Path("taken").write_text("")
    answer = run("--config=ResNet8-standard", "--train", *TINY, "train.runs_dir=taken")
    assert answer.status == 6
    assert "taken" in answer.err


def test_runs_that_start_in_the_same_instant_have_folders_of_their_own(tmp_path: Path) -> None:
    from agmax.experiments.run_folder import RunFolder

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: RunFolder.create(str(tmp_path), "name", "digits-s0").path.name, range(24)))
    assert sorted(names) == sorted(["digits-s0", *(f"digits-s0-{number}" for number in range(2, 25))])


@pytest.mark.parametrize(("limit", "batch_size", "status"), [(1, 8, 3), (2, 8, 0), (5, 4, 0), (9, 4, 0), (9, 1, 2)])
def test_small_data_sets_train_or_say_why_not(run: Run, limit: int, batch_size: int, status: int) -> None:
    words = (f"dataset.train_limit={limit}", f"train.batch_size={batch_size}")
    answer = run("--config=ResNet8-cutmix-agmax", "--train", *TINY, "train.epochs=1", *words)
    assert answer.status == status, answer.err
    assert status == 0 or (answer.err.count("\n") == 1 and not list(Path().glob("runs/*")))


def test_the_first_loss_that_is_not_finite_ends_the_training_before_the_optimizer_steps(run: Run) -> None:
    answer = run("--config=ResNet8-standard", "--train", *TINY, "optimizer.lr=1e30")
    assert answer.status == 7  # step 1 makes the weights huge; the end of the epoch is step 4
    assert "training diverged (step 2): classification=" in answer.err and ", lr=9.83e+29" in answer.err
