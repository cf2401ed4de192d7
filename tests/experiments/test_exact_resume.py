"""Killed at any step and resumed, a training is the same bit for bit."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from agmax.checkpoints.read import load
from agmax.optim.lr_schedules import Plateau
from agmax.training import loop
from agmax.training.loop import Trainer
from helpers.images import write_tree
from helpers.processes import run_code
from helpers.training import (
    EVERYTHING,
    KILL_ITSELF,
    TINY,
    Killed,
    Run,
    assert_same_weights,
    interrupted_and_resumed,
    kill_at,
    loss_log,
    rows,
    train,
    weights,
)
from main import main


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a training that nothing interrupts; not to be changed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main([*EVERYTHING, "--train", f"train.runs_dir={folder}"]) == 0
    return folder / "ResNet8-cutmix-agmax" / "digits-s0"


@pytest.mark.parametrize("step", range(12))
def test_resumed_at_any_step_a_training_is_the_same_bit_for_bit(
    run: Run, monkeypatch: pytest.MonkeyPatch, step: int, undisturbed: Path
) -> None:
    whole = json.loads((undisturbed / "result.json").read_text())
    resumed = interrupted_and_resumed(run, monkeypatch, step, *EVERYTHING)
    assert loss_log(resumed["run_folder"]) == loss_log(undisturbed)
    assert_same_weights(resumed["checkpoint"], whole["checkpoint"])
    assert_same_weights(f"{resumed['run_folder']}/checkpoints/best.pth", undisturbed / "checkpoints" / "best.pth")
    for key in ("top1", "nll", "ece", "best"):
        assert resumed[key] == whole[key]


OBSERVED_OTHERWISE = (
    "evaluation.every_epochs=2",
    "evaluation.batch_size=7",
    "evaluation.occlusion=true",
    "evaluation.robustness_limit=8",
    "train.log_every_steps=1",
    "train.save_every_steps=null",
    "train.keep_every_epochs=1",
    "train.num_workers=2",
)


@pytest.mark.parametrize(
    ("before", "after"), [((), OBSERVED_OTHERWISE), (OBSERVED_OTHERWISE, ())], ids=["from then on", "until then"]
)
def test_what_is_logged_saved_or_evaluated_otherwise_changes_no_bit_of_the_training(
    run: Run, monkeypatch: pytest.MonkeyPatch, undisturbed: Path, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    """Killed in the second epoch after its sixth step, and continued in the same folder."""
    with monkeypatch.context() as patch:
        kill_at(patch, 6)
        with pytest.raises(Killed):
            run(*EVERYTHING, *before, "--train")
    answer = run(*EVERYTHING, *after, "--train", "--resume", "--json")
    assert answer.status == 0, answer.err
    assert f"continuing after step {4 if before else 6} of 12" in answer.err
    assert [path.name for path in Path("runs/ResNet8-cutmix-agmax").iterdir()] == ["digits-s0"]
    assert_same_weights(answer.json["checkpoint"], undisturbed / "checkpoints" / "step-00000012.pth")
    trained = [[{**row, "timing": 0} for row in rows(folder)] for folder in (answer.json["run_folder"], undisturbed)]
    for row, expected in zip(*trained, strict=True):
        assert {key: value for key, value in row.items() if not key.startswith("test_")} == {
            key: value for key, value in expected.items() if not key.startswith("test_")
        }


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [
        *(("sgd", schedule) for schedule in ("constant", "cosine", "linear", "multistep", "step", "plateau")),
        ("adam", "cosine"),
        ("rmsprop", "plateau"),
        ("lamb", "linear"),  # it counts its steps in its groups
        ("lion", "cosine"),
        ("nadamw", "cosine"),
    ],
)
def test_every_schedule_and_optimizer_resumes_bit_for_bit(
    run: Run, monkeypatch: pytest.MonkeyPatch, schedule: str, optimizer: str
) -> None:
    words = (
        "--config=ResNet8-mixup",
        *TINY,
        f"schedule.name={schedule}",
        "schedule.warmup_epochs=0.5",
        "schedule.milestones=[1, 2]",
        "schedule.patience=0",
        f"optimizer.name={optimizer}",
        "optimizer.lr=0.01",
        "train.save_every_steps=3",
    )
    whole = run(*words, "--train", "--json", "train.runs_dir=whole").json
    resumed = interrupted_and_resumed(run, monkeypatch, 10, *words)
    assert loss_log(resumed["run_folder"]) == loss_log(whole["run_folder"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ResNet8-mixup-agmax", ["train.precision=bf16"]),
        ("WideResNet10-1-cutmix-agmax", ["--dropout=0.3"]),
        ("ResNet8-cutout-js", ["objective.num_views=3"]),
        ("ResNet8-mixup-symmetric_kl", ["train.precision=bf16"]),
        ("ResNet8-cutmix-stop_gradient", ["--dropout=0.3"]),
        ("WideResNet10-1-cutmix-tied_features", ["--dropout=0.3"]),
    ],
)
def test_methods_half_precision_and_dropout_resume_bit_for_bit(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]
) -> None:
    words = [f"--config={name}", *TINY, "train.save_every_steps=1", *words]
    whole = run(*words, "--train", "--json", "train.runs_dir=whole").json
    resumed = interrupted_and_resumed(run, monkeypatch, 6, *words)
    assert loss_log(resumed["run_folder"]) == loss_log(whole["run_folder"])
    assert_same_weights(resumed["checkpoint"], whole["checkpoint"])


def test_the_row_of_an_epoch_holds_the_learning_rate_that_it_was_trained_with(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agmax.training import loop as module

    def reduced(state: Plateau, loss: float, *, patience: int) -> Plateau:
        return state._replace(num_reductions=state.num_reductions + 1)

    monkeypatch.setattr(module, "update_plateau", reduced)
    result = train(run, "ResNet8-cutout", "schedule.name=plateau")
    assert [row["lr"] for row in rows(result["run_folder"])] == pytest.approx([0.1, 0.01, 0.001])
    assert load(Path(result["checkpoint"]))["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.001)


def test_images_per_second_counts_the_short_last_batch_correctly(run: Run) -> None:
    for row in rows(train(run, "ResNet8-standard")["run_folder"]):  # 32, 32, 32 and 4
        assert row["timing"]["images_per_second"] * row["timing"]["train_seconds"] == pytest.approx(100)


@pytest.mark.parametrize("workers", [(0, 2), (2, 0)])
def test_files_resume_bit_for_bit_whatever_the_number_of_workers(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: tuple[int, int]
) -> None:
    write_tree(tmp_path / "images", ["cat", "dog", "owl"], {"train": 7, "test": 3})
    words = (
        "--config=ResNet8-cutout-agmax",
        "--dataset=folder",
        f"dataset.root={tmp_path / 'images'}",
        "dataset.image_size=16",
        "train.batch_size=5",
        "train.epochs=2",
        "train.save_every_steps=1",
    )
    whole = run(*words, "--train", "--json", "train.runs_dir=whole", f"train.num_workers={workers[0]}").json
    resumed = interrupted_and_resumed(run, monkeypatch, 7, *words, f"train.num_workers={workers[1]}")
    assert loss_log(resumed["run_folder"]) == loss_log(whole["run_folder"])
    assert_same_weights(resumed["checkpoint"], whole["checkpoint"])


def test_killed_between_the_last_step_of_an_epoch_and_its_row(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--config=ResNet8-cutout", *TINY, "schedule.name=plateau")
    whole = run(*words, "--train", "--json", "train.runs_dir=whole").json
    with monkeypatch.context() as patch:
        original = Trainer.finish_epoch

        def dying(trainer: Trainer, **times: Any) -> None:
            if trainer.step == 8:
                raise Killed
            original(trainer, **times)

        patch.setattr(Trainer, "finish_epoch", dying)
        with pytest.raises(Killed):
            run(*words, "--train")
    resumed = run(*words, "--train", "--resume", "--json").json
    assert loss_log(resumed["run_folder"]) == loss_log(whole["run_folder"])
    assert resumed["best"] == whole["best"]


def test_a_partial_row_is_written_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--config=ResNet8-standard", *TINY)
    whole = run(*words, "--train", "--json", "train.runs_dir=whole").json
    with monkeypatch.context() as patch:
        kill_at(patch, 9)
        with pytest.raises(Killed):
            run(*words, "--train")
    path = Path("runs/ResNet8-standard/digits-s0/metrics.jsonl")
    path.write_text(path.read_text()[:-30])
    resumed = run(*words, "--train", "--resume", "--json").json
    assert loss_log(resumed["run_folder"]) == loss_log(whole["run_folder"])


def test_killed_with_signal_9_in_the_middle_of_epoch_3_and_resumed(run: Run, tmp_path: Path) -> None:
    words = ("--config=ResNet8-cutmix-agmax", "--train", *TINY, "train.save_every_steps=5", "--json")
    killed = run_code(KILL_ITSELF, *words, folder=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    folder = Path("runs/ResNet8-cutmix-agmax/digits-s0")
    assert len(rows(folder)) == 2
    resumed = run(*words, "--resume")
    assert "continuing after step 10 of 12" in resumed.err
    whole = run(*words, "train.runs_dir=whole")
    assert loss_log(folder) == loss_log("whole/ResNet8-cutmix-agmax/digits-s0")
    assert_same_weights(resumed.json["checkpoint"], whole.json["checkpoint"])


@pytest.mark.parametrize(
    "parts",
    ["auto_augment-cutout", "rand_augment-random_erasing", "trivial_augment-mixup", "soft_crop-cutmix", "wide_crop"],
)
def test_every_augmentation_resumes_bit_for_bit(run: Run, monkeypatch: pytest.MonkeyPatch, parts: str) -> None:
    jitter = ("augment.color_jitter.brightness=0.4", "augment.color_jitter.contrast=0.4")
    words = (f"--config=ResNet8-{parts}-agmax", *TINY, *jitter, "train.save_every_steps=1")
    whole = run(*words, "--train", "--json", "train.runs_dir=whole").json
    resumed = interrupted_and_resumed(run, monkeypatch, 7, *words)
    assert loss_log(resumed["run_folder"]) == loss_log(whole["run_folder"])
    assert_same_weights(resumed["checkpoint"], whole["checkpoint"])


@pytest.mark.parametrize("is_parallel_first", [True, False])
def test_weights_are_saved_alike_from_one_device_and_from_several(
    run: Run, monkeypatch: pytest.MonkeyPatch, undisturbed: Path, is_parallel_first: bool
) -> None:
    """A training in DataParallel, which has no device here and only wraps the model, continues without it, and back."""

    def wrap(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(loop, "data_parallel", lambda model, device: torch.nn.DataParallel(model))

    with monkeypatch.context() as patch:
        if is_parallel_first:
            wrap(patch)
        kill_at(patch, 6)
        with pytest.raises(Killed):
            run(*EVERYTHING, "--train")
    if not is_parallel_first:
        wrap(monkeypatch)
    resumed = run(*EVERYTHING, "--train", "--resume", "--json").json
    assert loss_log(resumed["run_folder"]) == loss_log(undisturbed)
    assert_same_weights(resumed["checkpoint"], undisturbed / "checkpoints" / Path(resumed["checkpoint"]).name)
    assert not any("module." in name for name in weights(resumed["checkpoint"]))
