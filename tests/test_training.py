"""From --train to --eval: run folders, exact resume, and what the command line answers."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from agmax.augment.pipeline import Pipeline
from agmax.checkpoints.read import load
from agmax.cli.parser import parse
from agmax.config import names
from agmax.core import devices
from agmax.core.batch import Batch
from agmax.evaluation.metrics import measured
from agmax.evaluation.predict import Predictions
from agmax.experiments import results
from agmax.experiments.results import Result, write_predictions
from agmax.experiments.start import find_weights
from agmax.models import backbones
from agmax.optim.lr_schedules import Plateau
from agmax.training.loop import Trainer
from helpers.images import write_images, write_tree
from helpers.places import REPOSITORY, skip_or_fail
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
    tree,
    weights,
)
from main import main

# --- the whole way -------------------------------------------------------------------------------------------------


def test_a_training_leaves_a_complete_run_folder(run: Run) -> None:
    result = train(run, "ResNet8-cutout-agmax", "dataset.validation=0.05")
    folder = Path(result["run_folder"])
    assert folder == Path("runs/ResNet8-cutout-agmax/digits-s0")
    names = {path.name for path in folder.iterdir()} - {".lock"}
    files = ["config.yaml", "environment.json", "metrics.jsonl", "predictions.npz", "result.json", "train.log"]
    assert names == {*files, "checkpoints", "tensorboard"}
    assert json.loads((folder / "result.json").read_text()) == result
    environment = json.loads((folder / "environment.json").read_text())
    assert torch.__version__.startswith(environment["torch"])
    assert (environment["precision"], environment["device"]) == ("fp32", "cpu")
    assert environment["threads"] == torch.get_num_threads()
    last = rows(folder)[-1]
    assert [row["epoch"] for row in rows(folder)] == [1, 2, 3]
    assert last["step"] == 12
    terms = ("classification", "agreement", "consistency")
    assert last["train_loss"] == pytest.approx(sum(last[term] for term in terms))
    assert last["test_top1"] == result["top1"]
    assert {"validation_top1", "validation_nll", "test_ece", "lr", "target_entropy", "timing"} <= last.keys()
    for key in ("mode", "config", "dataset", "split", "num_images", "top5", "nll", "ece", "seed", "epochs", "seconds"):
        assert key in result


def test_evaluation_of_the_saved_checkpoint_gives_exactly_the_same_numbers(run: Run) -> None:
    trained = train(run, "ResNet8-cutout-agmax")
    for words in (
        ("--config=ResNet8-cutout-agmax", *TINY, "--resume"),
        ("--resume", trained["checkpoint"]),
        ("--resume", trained["run_folder"]),
        ("--config=ResNet8-cutout-agmax", "--resume", trained["checkpoint"]),
    ):
        evaluated = run("--eval", "--json", *words).json
        for key in ("dataset", "top1", "top5", "nll", "ece", "num_images", "per_class", "checkpoint"):
            assert evaluated[key] == trained[key]
        assert evaluated["mode"] == "eval"


def test_predictions_hold_what_the_result_says(run: Run) -> None:
    result = train(run, "ResNet8-standard", "dataset.validation=0.05")
    saved = np.load(Path(result["run_folder"]) / "predictions.npz")
    assert saved["test_logits"].dtype == np.float16
    assert saved["test_logits"].shape == (360, 10)
    assert saved["test_indices"].tolist() == list(range(360))
    correct = (saved["test_logits"].argmax(1) == saved["test_labels"]).mean() * 100
    assert correct == pytest.approx(result["top1"], abs=0.6)  # float16 can tie two logits
    run("--eval", "--resume", result["checkpoint"], "--predictions=mine.npz")
    again = np.load("mine.npz")
    assert np.array_equal(again["test_logits"], saved["test_logits"])
    assert len(saved["validation_labels"]) == 72  # 5 % of 1,437


def test_tensorboard_shows_the_rows(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(run, "ResNet8-standard")
    events = EventAccumulator(f"{result['run_folder']}/tensorboard")
    events.Reload()
    for name in ("train_loss", "test_top1", "lr"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(row["step"], row[name]) for row in rows(result["run_folder"])]
        assert [step for step, _ in shown] == [step for step, _ in expected]
        assert [value for _, value in shown] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_the_saved_configuration_trains_the_same_model_again(run: Run) -> None:
    first = train(run, "ResNet8-mixup-agmax")
    answer = run("--train", "--json", "--config", f"{first['run_folder']}/config.yaml")
    assert answer.json["run_folder"].endswith("digits-s0-2")
    assert loss_log(first["run_folder"]) == loss_log(answer.json["run_folder"])
    assert_same_weights(first["checkpoint"], answer.json["checkpoint"])


def test_the_first_line_says_steps_and_sizes(run: Run) -> None:
    answer = run("--config=ResNet8-standard", "--train", *TINY)
    first = answer.err.splitlines()[0]
    assert "3 epochs of 4 steps with 100 images" in first
    assert "on the CPU" in first
    size = max(path.stat().st_size for path in Path("runs/ResNet8-standard/digits-s0/checkpoints").iterdir())
    said = float(first.split("checkpoints of ")[1].split(" MiB")[0])
    assert said == pytest.approx(size / 2**20, abs=0.1)
    assert "minutes of training left" in answer.err


# --- methods -------------------------------------------------------------------------------------------------------


def test_agmax_without_its_weights_is_two_views_bit_for_bit(run: Run) -> None:
    nothing = ("objective.agreement_weight=0", "objective.consistency_weight=0")
    silent = train(run, "ResNet8-cutmix-agmax", *nothing)
    control = train(run, "ResNet8-cutmix-two_views")
    full = train(run, "ResNet8-cutmix-agmax")
    for ours, theirs in zip(rows(silent["run_folder"]), rows(control["run_folder"]), strict=True):
        for key in ("train_loss", "classification", "test_nll", "target_entropy"):
            assert ours[key].hex() == theirs[key].hex()
        assert ours["agreement"] == ours["consistency"] == 0
    backbones = [
        {key: value for key, value in weights(result["checkpoint"]).items() if key.startswith("backbone.")}
        for result in (silent, control, full)
    ]
    assert all(torch.equal(value, backbones[1][key]) for key, value in backbones[0].items())
    assert not all(torch.equal(value, backbones[2][key]) for key, value in backbones[0].items())


@pytest.mark.parametrize("method", [item.part for item in names.examples("method") if item.part != "fine_tune"])
def test_every_method_trains(run: Run, method: str) -> None:
    result = train(run, f"ResNet8-mixup-{method}", "train.epochs=1")
    last = rows(result["run_folder"])[-1]
    without = ("focal", "label_smoothing", "label_smoothing_others", "two_views")
    assert ("agreement" in last) == (method not in without)
    assert last["target_entropy"] > 0


def test_seeds_change_the_result_and_equal_seeds_do_not(run: Run) -> None:
    first, second, third = (train(run, "ResNet8-cutout", f"--seed={seed}") for seed in (0, 1, 0))
    assert loss_log(first["run_folder"]) == loss_log(third["run_folder"])
    assert loss_log(first["run_folder"]) != loss_log(second["run_folder"])


def test_several_runs_are_summarised(run: Run) -> None:
    answer = run("--config=ResNet8-standard", "--train", *TINY, "--n-runs=3", "--seed=4", "--json", "train.epochs=1")
    summary = answer.json
    scores = [result["top1"] for result in summary["runs"]]
    assert summary["seeds"] == [4, 5, 6]
    assert len(set(scores)) > 1
    spread = summary["top1_spread"]
    assert (spread["min"], spread["max"]) == (min(scores), max(scores))
    assert spread["mean"] == pytest.approx(np.mean(scores))
    assert spread["std"] == pytest.approx(np.std(scores, ddof=1))
    assert "3 runs: test top1 mean" in answer.err


def test_runs_without_a_speed_are_summarised() -> None:
    """A run that was killed after its last step has none."""
    about = {field.name: None for field in dataclasses.fields(Result)} | {"robustness": {}, "published": {}}
    scores, more = dict.fromkeys(measured(), 1.0), {"seed": 0, "seconds": 0.0}
    made = [Result(**{**about, **more, "scores": scores, "images_per_second": speed}) for speed in (None, 3.0)]  # type: ignore[arg-type]
    assert results.summary(made)["images_per_second"] == 3.0
    assert results.summary(made[:1] * 2)["images_per_second"] is None


def test_evaluating_more_often_does_not_change_the_training(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = train(run, "ResNet8-cutout", "model.dropout=0.2")
    step = Trainer.train_step

    def evaluate_first(trainer: Trainer, sample: Any) -> Any:
        for evaluator in trainer.evaluators.values():
            evaluator()
        return step(trainer, sample)

    monkeypatch.setattr(Trainer, "train_step", evaluate_first)
    busy = train(run, "ResNet8-cutout", "model.dropout=0.2")
    assert loss_log(quiet["run_folder"]) == loss_log(busy["run_folder"])


# --- resume --------------------------------------------------------------------------------------------------------


def test_a_row_says_how_much_of_the_epoch_the_augmentation_took(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps an epoch, each slowed by a twentieth of a second; evaluations do not augment."""
    original = Pipeline.__call__

    def slow(pipeline: Pipeline, *arguments: Any, **named: Any) -> Batch:
        time.sleep(0.05)
        return original(pipeline, *arguments, **named)

    monkeypatch.setattr(Pipeline, "__call__", slow)
    folder = run("--config=ResNet8-cutout", *TINY, "--train", "--json").json["run_folder"]
    for row in rows(folder):
        timing = row["timing"]
        assert 0.2 <= timing["augment_seconds"] < timing["train_seconds"]


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

    monkeypatch.setattr(module, "plateau_after", reduced)
    result = train(run, "ResNet8-cutout", "schedule.name=plateau")
    assert [row["lr"] for row in rows(result["run_folder"])] == pytest.approx([0.1, 0.01, 0.001])
    assert load(Path(result["checkpoint"]))["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.001)


def test_only_images_that_were_seen_are_counted(run: Run) -> None:
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


def test_a_half_written_row_is_made_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
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
    killed = subprocess.run(
        [sys.executable, "-c", KILL_ITSELF, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    folder = Path("runs/ResNet8-cutmix-agmax/digits-s0")
    assert len(rows(folder)) == 2
    resumed = run(*words, "--resume")
    assert "continuing after step 10 of 12" in resumed.err
    whole = run(*words, "train.runs_dir=whole")
    assert loss_log(folder) == loss_log("whole/ResNet8-cutmix-agmax/digits-s0")
    assert_same_weights(resumed.json["checkpoint"], whole.json["checkpoint"])


def test_without_a_terminal_there_are_plain_lines(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "0")
    answer = run("--config=ResNet8-standard", "--train", *TINY, "--json")
    assert answer.status == 0, answer.err
    assert "\r" not in answer.out + answer.err
    assert answer.json["mode"] == "train"
    assert "epoch 3/3" in answer.err


def test_a_finished_run_prints_its_result_again(run: Run) -> None:
    first = train(run, "ResNet8-standard")
    before = tree(Path("runs"))
    assert train(run, "ResNet8-standard", "--resume") == first
    assert tree(Path("runs")) == before


def test_a_finished_run_whose_result_is_not_whole_is_said(run: Run) -> None:
    words = ("--config=ResNet8-standard", "--train", *TINY, "train.epochs=1")
    path = Path(train(run, "ResNet8-standard", "train.epochs=1")["run_folder"]) / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in result.items() if key != "steps"}))
    answer = run(*words, "--resume")
    assert answer.status == 4 and "result.json): it lacks steps. Restore it" in answer.err
    path.write_text(json.dumps({**result, "brier": 0.5}))
    answer = run(*words, "--resume", "--json")
    assert answer.status == 0 and answer.json == {**result, "brier": 0.5}


def test_a_finished_run_needs_no_checkpoint(run: Run) -> None:
    result = train(run, "ResNet8-standard", "train.epochs=1")
    Path(result["checkpoint"]).write_bytes(b"damaged")
    answer = run("--config=ResNet8-standard", "--train", *TINY, "train.epochs=1", "--resume", "--json")
    assert answer.status == 0 and answer.json == result


def test_what_is_typed_wrong_is_said_before_a_checkpoint_is_looked_for(run: Run) -> None:
    for words in (("--config=ResNet8-cutout", "--train"), ("--eval",), ("--predict", "a.png")):
        answer = run(*words, "optimizer.lrr=3", "--resume", "nowhere")
        assert answer.status == 2 and "unknown key optimizer.lrr" in answer.err, words


def test_a_run_whose_weights_alone_are_taken_is_left_as_it_is(run: Run) -> None:
    first = Path(train(run, "ResNet8-standard", "train.epochs=1")["run_folder"])
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    (first / ".lock").chmod(0o400)
    answer = run("--train", "--resume", str(first), "train.epochs=2", "--json")
    assert answer.status == 0 and answer.json["run_folder"] != str(first)
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before


def test_a_run_without_a_checkpoint_starts_again_in_its_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 2)
        with pytest.raises(Killed):
            run("--config=ResNet8-standard", "--train", *TINY)
    for resume in ("--resume", "--resume=runs/ResNet8-standard/digits-s0"):
        with monkeypatch.context() as patch:
            kill_at(patch, 1)
            with pytest.raises(Killed):
                run("--config=ResNet8-standard", "--train", *TINY, resume)
    assert train(run, "ResNet8-standard", "--resume")["run_folder"] == "runs/ResNet8-standard/digits-s0"


def test_resume_without_an_equal_run_says_what_was_looked_for(run: Run) -> None:
    answer = run("--config=ResNet8-standard", "--train", *TINY, "--resume")
    assert answer.status == 4
    assert "runs/ResNet8-standard/digits-s0[-n]" in answer.err
    train(run, "ResNet8-standard")
    answer = run("--config=ResNet8-standard", "--train", *TINY, "--resume", "optimizer.lr=0.2")
    assert answer.status == 4
    assert "optimizer.lr: 0.1 -> 0.2" in answer.err


def test_resume_with_other_settings_starts_a_new_folder_from_those_weights(run: Run) -> None:
    first = train(run, "ResNet8-standard")
    before = tree(Path(first["run_folder"]))
    answer = run("--train", "--json", "--resume", first["run_folder"], "train.epochs=5", "optimizer.lr=0.01")
    assert "changed optimizer.lr: 0.1 -> 0.01" in answer.err
    assert "changed train.epochs: 3 -> 5" in answer.err
    assert "continuing after step 12 of 20" in answer.err
    assert answer.json["run_folder"] == "runs/ResNet8-standard/digits-s0-2"
    assert [row["epoch"] for row in rows(answer.json["run_folder"])] == [4, 5]
    assert tree(Path(first["run_folder"])) == before


def test_weights_of_another_network_are_refused(run: Run) -> None:
    first = train(run, "ResNet8-standard", "train.epochs=1")
    folders = set(Path("runs").rglob("*"))
    for words in (
        ("--config=ResNet20-standard", "--train", *TINY),
        ("--config=ResNet8-standard-agmax", "--train", *TINY),
        ("--config=ResNet20-standard", "--eval"),
        ("--config=ResNet8-standard", "--eval", "dataset.num_classes=10", "model.channels=3"),
    ):
        answer = run(*words, "--resume", first["checkpoint"])
        assert answer.status == 4, answer.err
        assert "checkpoint: agmax_resnet8, 1 channels, 10 classes, classification; configuration:" in answer.err
    assert set(Path("runs").rglob("*")) == folders


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its epoch was evaluated already: the row is dropped and made again."""
    words = ("--config=ResNet8-standard", *TINY, "train.save_every_steps=3")
    whole = run(*words, "--train", "--json", "train.runs_dir=whole").json
    with monkeypatch.context() as patch:
        kill_at(patch, 8)
        with pytest.raises(Killed):
            run(*words, "--train")
    assert [row["step"] for row in rows("runs/ResNet8-standard/digits-s0")] == [4, 8]
    newest = Path("runs/ResNet8-standard/digits-s0/checkpoints/step-00000008.pth")
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    answer = run(*words, "--train", "--resume", "--json")
    assert "warning: damaged checkpoint" in answer.err
    assert "continuing after step 6 of 12" in answer.err
    assert loss_log(answer.json["run_folder"]) == loss_log(whole["run_folder"])


def test_changed_settings_of_the_optimizer_act(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(run, "ResNet8-standard")
    seen: list[Trainer] = []
    monkeypatch.setattr(Trainer, "fit", lambda trainer: seen.append(trainer) or pytest.skip("seen"))
    words = ("--train", "--resume", first["run_folder"], "train.epochs=5", "optimizer.weight_decay=0.1")
    with pytest.raises(pytest.skip.Exception):
        run(*words, "optimizer.momentum=0.5", "optimizer.nesterov=false")
    (group,) = seen[0].optimizer.param_groups
    assert (group["weight_decay"], group["momentum"], group["nesterov"]) == (0.1, 0.5, False)
    assert any(state["momentum_buffer"].any() for state in seen[0].optimizer.state.values())
    with pytest.raises(pytest.skip.Exception):
        run(*words, "optimizer.decay_bias_and_norm=false")
    assert len(seen[1].optimizer.param_groups) == 2


@pytest.mark.parametrize("setting", ["optimizer.lr=0.01", "train.epochs=2"])
def test_when_nothing_is_left_to_train_no_folder_is_made(run: Run, setting: str) -> None:
    first = train(run, "ResNet8-standard")
    answer = run("--train", "--resume", first["run_folder"], setting)
    assert answer.status == 2
    assert "nothing left to train" in answer.err and "Raise train.epochs" in answer.err
    assert len(list(Path("runs/ResNet8-standard").iterdir())) == 1


def test_a_run_begun_from_weights_and_killed_at_once_still_knows_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(run, "ResNet8-standard")
    words = ("--train", "--json", "--resume", first["run_folder"], "train.epochs=5")
    whole = run(*words, "train.runs_dir=whole").json
    with monkeypatch.context() as patch:
        kill_at(patch, 14)
        with pytest.raises(Killed):
            run(*words)
    resumed = run("--config=ResNet8-standard", "--train", "--json", *TINY, "--resume", "train.epochs=5").json
    assert resumed["run_folder"] == "runs/ResNet8-standard/digits-s0-2"
    assert loss_log(resumed["run_folder"]) == loss_log(whole["run_folder"])
    assert_same_weights(resumed["checkpoint"], whole["checkpoint"])


def test_weights_are_trained_on_with_the_data_set_they_know(run: Run) -> None:
    first = train(run, "ResNet8-standard")
    words = ("train.epochs=4", "dataset.image_size=8", "dataset.train_limit=100", "train.batch_size=32")
    answer = run("--config=ResNet8-cutout", "--train", "--json", "--resume", first["checkpoint"], *words)
    assert answer.status == 0, answer.err
    assert answer.json["run_folder"] == "runs/ResNet8-cutout/digits-s0"
    assert run("--train", "--cutmix", "--resume", first["checkpoint"]).status == 2


@pytest.fixture
def on_folder(tmp_path: Path) -> tuple[str, ...]:
    """Words that train on twelve images in folders: two epochs of three steps."""
    root = write_tree(tmp_path / "images", ["cat", "dog"], {"train": 6, "test": 2}, size=(16, 16))
    sizes = ("dataset.image_size=16", "train.batch_size=4", "train.epochs=2", "train.num_workers=0")
    return ("--config=ResNet8-standard", "--dataset=folder", f"dataset.root={root}", *sizes)


def test_a_data_set_that_has_grown_is_not_trained_on_by_the_old_steps(
    run: Run, monkeypatch: pytest.MonkeyPatch, on_folder: tuple[str, ...], tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(Killed):
            run(*on_folder, "--train")
    write_images(tmp_path / "images" / "train" / "cat", 9)
    answer = run(*on_folder, "--train", "--resume")
    assert answer.status == 3
    assert "15 images to train on, there were 12" in answer.err


def test_classes_of_other_names_are_not_taken_for_those_that_the_weights_know(
    run: Run, on_folder: tuple[str, ...], tmp_path: Path
) -> None:
    trained = run(*on_folder, "--train", "--json").json
    other = write_tree(tmp_path / "other", ["ant", "bee"], {"test": 2, "train": 2}, size=(16, 16))
    answer = run("--eval", "--resume", trained["checkpoint"], f"dataset.root={other}")
    assert answer.status == 3
    assert "2 classes (ant, bee), the weights know 2 classes (cat, dog)" in answer.err
    answer = run(*on_folder, "--train", "--resume", trained["checkpoint"], f"dataset.root={other}", "--epochs=9")
    assert answer.status == 3
    os.rename(other / "test", other / "val")
    imagenet = ("--dataset=imagenet", f"dataset.root={other}", "dataset.num_classes=2")
    (other / "train").rename(other / "unused")
    answer = run("--eval", "--resume", trained["checkpoint"], *imagenet, "train.num_workers=0")
    assert answer.status == 0, answer.err
    assert "note: classes are matched by their place" in answer.err


def test_weights_keep_their_split_whatever_the_seed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from agmax import builders

    first = train(run, "ResNet8-standard", "dataset.validation=0.05", "--seed=3")
    original, seeds = builders.splits, []

    def noting(config: Any) -> Any:
        seeds.append((config.train.seed, config.dataset_seed))
        return original(config)

    monkeypatch.setattr(builders, "splits", noting)
    for words in ([], ["--config=ResNet8-standard", *TINY, "dataset.validation=0.05"]):
        answer = run("--train", *words, "--resume", first["run_folder"], "--seed=7", "train.epochs=4")
        assert answer.status == 0, answer.err
    assert seeds == [(7, 3), (7, 3)]


def test_an_unfinished_run_of_the_same_settings_is_pointed_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(run, "ResNet8-standard")
    words = ("--train", "--resume", first["run_folder"], "train.epochs=5")
    with monkeypatch.context() as patch:
        kill_at(patch, 17)
        with pytest.raises(Killed):
            run(*words)
    answer = run(*words)
    assert "note: runs/ResNet8-standard/digits-s0-2 has these settings and is not finished" in answer.err


def test_a_folder_in_use_is_left_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from agmax.experiments.run_folder import Run as RunFolder

    with monkeypatch.context() as patch:
        kill_at(patch, 5)
        with pytest.raises(Killed):
            run("--config=ResNet8-standard", "--train", *TINY)
    folder = Path("runs/ResNet8-standard/digits-s0")
    with RunFolder(folder).locked():
        before = tree(folder)
        answer = run("--config=ResNet8-standard", "--train", *TINY, "--resume")
        assert answer.status == 9
        assert f"process {os.getpid()} on" in answer.err
        assert tree(folder) == before
    (folder / ".lock").unlink()
    (folder / ".lock").mkdir()  # as if the folder could not be written
    assert run("--config=ResNet8-standard", "--train", *TINY, "--resume").status == 6
    (folder / ".lock").rmdir()
    assert train(run, "ResNet8-standard", "--resume")["run_folder"] == str(folder)


def test_another_number_of_threads_is_said_to_change_the_bits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 5)
        with pytest.raises(Killed):
            run("--config=ResNet8-standard", "--train", *TINY)
    path = Path("runs/ResNet8-standard/digits-s0/environment.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "threads": 77}))
    answer = run("--config=ResNet8-standard", "--train", *TINY, "--resume")
    assert f"warning: not bit-exact: threads was 77, is {torch.get_num_threads()}" in answer.err


# --- evaluation ----------------------------------------------------------------------------------------------------


def test_evaluation_needs_a_checkpoint(run: Run) -> None:
    answer = run("--config=ResNet8-standard", "--eval", "--dataset=digits")
    assert answer.status == 2
    assert "--resume" in answer.err


def test_evaluation_writes_nothing_and_needs_no_training_images(run: Run, tmp_path: Path) -> None:
    images = write_tree(tmp_path / "images", ["a", "b"], {"train": 4, "val": 3})
    words = ("--dataset=folder", f"dataset.root={images}", "dataset.image_size=16", "train.num_workers=0")
    trained = run("--config=ResNet8-standard", "--train", "--json", *words, "train.epochs=1", "train.batch_size=4").json
    for path in sorted((images / "train").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    before = tree(tmp_path)
    (images / "train").rmdir()
    imagenet = ("--dataset=imagenet", f"dataset.root={images}", "dataset.num_classes=2", "dataset.image_size=16")
    answer = run("--eval", "--json", "--resume", trained["checkpoint"], *imagenet)
    assert answer.status == 0, answer.err
    assert answer.json["num_images"] == 6
    assert tree(tmp_path) == before


EVALUATE_THEN_TRAIN = """
import sys
from main import main
evaluated = main(["--eval", "--resume", sys.argv[1], "--json"])
sys.exit(evaluated or main(["--config=ResNet8-standard", "--train", "--dataset=digits"]))
"""


def test_evaluation_leaves_a_read_only_folder_as_it_is(run: Run, tmp_path: Path) -> None:
    trained = train(run, "ResNet8-standard", "train.epochs=1")
    script = 'mount --bind runs runs && mount -o remount,ro,bind runs && "$@"'
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True)
    if probe.returncode != 0:
        skip_or_fail("needs user namespaces")
    both = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", EVALUATE_THEN_TRAIN, trained["checkpoint"]],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert both.returncode == 6, both.stderr
    assert json.loads(both.stdout)["top1"] == trained["top1"]
    assert "cannot write the output folder (runs)" in both.stderr


def test_any_split_can_be_evaluated(run: Run) -> None:
    trained = train(run, "ResNet8-standard", "dataset.validation=0.05", "train.epochs=1")
    for split, count in {"train": 100, "validation": 72, "test": 360}.items():
        answer = run("--eval", "--json", "--resume", trained["checkpoint"], f"--split={split}")
        assert answer.json["num_images"] == count
        if split == "validation":
            assert answer.json["top1"] == rows(trained["run_folder"])[-1]["validation_top1"]


def test_normalisation_travels_with_the_weights(run: Run) -> None:
    trained = train(run, "ResNet8-standard", "dataset.mean=[0.5]", "dataset.std=[0.25]")
    answer = run("--eval", "--json", "--config=ResNet8-standard", "--resume", trained["checkpoint"])
    assert answer.json["nll"] == trained["nll"]


def test_a_split_is_the_one_that_was_trained_with_whatever_is_typed(run: Run) -> None:
    trained = train(run, "ResNet8-standard", "dataset.validation=0.05", "--seed=3")
    expected = rows(trained["run_folder"])[-1]["validation_nll"]
    for words in ([], ["--config=ResNet8-standard"], ["--config=ResNet8-standard", "--dataset=digits"]):
        answer = run("--eval", "--json", "--split=validation", "--resume", trained["checkpoint"], *words)
        assert (answer.json["nll"], answer.json["seed"], answer.json["epochs"]) == (expected, 3, 3)


def test_a_file_of_the_user_is_obeyed_and_finds_its_runs(run: Run) -> None:
    Path("configs").mkdir()
    text = "base: ResNet8-standard\ndataset: {name: digits, image_size: 16}\ntrain: {runs_dir: out, epochs: 1}\n"
    for path in (Path("mine.yaml"), Path("configs/mine.yaml")):
        path.write_text(text)
        trained = run(f"--config={path}", "--train", "--json", "dataset.train_limit=50", "dataset.image_size=8").json
        name = trained["run_folder"].removeprefix("out/")
        answer = run(f"--config={path}", "--eval", "--json", "--resume", name)
        assert answer.status == 0, answer.err
        expected = run("--eval", "--json", "--resume", trained["checkpoint"], "dataset.image_size=16").json
        assert answer.json["nll"] == expected["nll"] != trained["nll"]


def test_a_name_given_to_an_evaluation_may_leave_out_what_the_weights_know(run: Run) -> None:
    trained = train(run, "ResNet8-standard-agmax", "model.channels=3", "train.epochs=1")
    answer = run("--eval", "--json", "--config=ResNet8-standard", "--resume", trained["checkpoint"])
    assert answer.status == 0, answer.err
    assert answer.json["nll"] == trained["nll"]


def test_predictions_too_large_for_half_precision_are_written_as_its_largest_numbers(tmp_path: Path) -> None:
    logits = torch.tensor([[1e9, -1e9, 2.0]])
    split = Predictions(logits, torch.tensor([0]), torch.tensor([5]))
    with (tmp_path / "p.npz").open("wb") as file:
        write_predictions(file, {"test": split})
    assert np.load(tmp_path / "p.npz")["test_logits"].tolist() == [[65504.0, -65504.0, 2.0]]


def test_another_data_set_is_seen_as_the_weights_have_learnt_it(run: Run) -> None:
    trained = train(run, "ResNet8-standard", "dataset.mean=[0.4]", "train.epochs=1")
    for words in ((), ("--config=ResNet8-standard",)):
        request = parse(["--eval", "--dataset=fashion_mnist", "--resume", trained["checkpoint"], *words])
        config = find_weights(request.ask).resolved.config
        assert (config.dataset.name, config.dataset.mean, config.dataset.image_size) == ("fashion_mnist", [0.4], 8)
    request = parse(["--eval", "--dataset=fashion_mnist", "dataset.mean=[0.7]", "--resume", trained["checkpoint"]])
    assert find_weights(request.ask).resolved.config.dataset.mean == [0.7]


def test_settings_of_the_evaluation_do_not_hide_the_run(run: Run) -> None:
    trained = train(run, "ResNet8-standard")
    answer = run("--config=ResNet8-standard", *TINY, "--eval", "--json", "--resume", "evaluation.batch_size=64")
    assert answer.json["checkpoint"] == trained["checkpoint"]
    answer = run("--config=ResNet8-standard", *TINY, "--eval", "--resume", "--seed=1")
    assert answer.status == 4
    assert "Give --resume RUN" in answer.err


def test_no_pretrained_weights_are_fetched_where_a_checkpoint_has_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    make, asked = timm.create_model, []

    def without_network(name: str, *, pretrained: bool, **options: Any) -> Any:
        asked.append(pretrained)
        return make(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", without_network)
    monkeypatch.setattr(backbones, "_refuse_without_network", lambda name: None)
    trained = train(run, "ResNet8-standard", "model.pretrained=true", "train.epochs=1")
    assert asked == [True]
    assert run("--eval", "--resume", trained["checkpoint"]).status == 0
    assert len(asked) > 1 and not any(asked[1:])


@pytest.mark.parametrize("mode", ["--eval", "--predict=digit.png"])
def test_memory_is_kept_between_batches_where_nothing_is_trained_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    trained = train(run, "ResNet8-standard", "train.epochs=1")
    Image.new("L", (8, 8)).save("digit.png")
    kept = []
    monkeypatch.setattr(devices, "keep_freed_memory", lambda: kept.append(mode))
    assert run(mode, "--resume", trained["checkpoint"]).status == 0
    assert kept == [mode]


def test_predictions_that_cannot_be_written_end_before_the_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = train(run, "ResNet8-standard", "train.epochs=1")
    for path in ("no/such/x.npz", "runs"):
        answer = run("--eval", "--resume", trained["checkpoint"], f"--predictions={path}")
        assert answer.status == 6
        assert "top1" not in answer.err


def test_checkpoints_are_found_as_typed_then_in_checkpoints_then_in_the_runs(run: Run) -> None:
    trained = train(run, "ResNet8-standard", "train.epochs=1")
    source = Path(trained["checkpoint"])
    assert run("--eval", "--resume", "ResNet8-standard/digits-s0").status == 0
    Path("checkpoints").mkdir()
    (Path("checkpoints") / "mine.pth").write_bytes(source.read_bytes())
    assert run("--eval", "--json", "--resume", "mine.pth").json["checkpoint"] == "checkpoints/mine.pth"
    Path("mine.pth").write_bytes(source.read_bytes())
    assert run("--eval", "--json", "--resume", "mine.pth").json["checkpoint"] == "mine.pth"
    assert run("--eval", "--resume", str(source.resolve())).status == 0
    answer = run("--eval", "--resume", "nowhere.pth")
    assert answer.status == 4
    for text in ("checkpoints/nowhere.pth", "runs/nowhere.pth", "There are mine.pth, checkpoints/mine.pth"):
        assert text in answer.err


# --- faults --------------------------------------------------------------------------------------------------------


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
    from agmax.experiments.run_folder import Run as RunFolder

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: RunFolder.create(str(tmp_path), "name", "digits-s0").path.name, range(24)))
    assert sorted(made) == sorted(["digits-s0", *(f"digits-s0-{number}" for number in range(2, 25))])


@pytest.mark.parametrize(("limit", "batch_size", "status"), [(1, 8, 3), (2, 8, 0), (5, 4, 0), (9, 4, 0)])
def test_small_data_sets_train_or_say_why_not(run: Run, limit: int, batch_size: int, status: int) -> None:
    words = (f"dataset.train_limit={limit}", f"train.batch_size={batch_size}")
    answer = run("--config=ResNet8-cutmix-agmax", "--train", *TINY, "train.epochs=1", *words)
    assert answer.status == status, answer.err


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


def test_summary_counts_parameters_and_operations(run: Run) -> None:
    """ResNet8 on 32x32: multiply-adds of each convolution, 2 operations each, worked out from the shapes."""
    result = run("--config=ResNet8-standard-agmax", "--summary", "--dataset=cifar10", "--json").json
    assert result["parameters"] == 78_042 + 3_978
    assert (result["backbone_parameters"], result["q_network_parameters"]) == (78_042, 3_978)
    macs = 27 * 16 * 1024 + 2 * 9 * 16 * 16 * 1024
    macs += (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32) * 256 + (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64) * 64 + 640
    assert result["flops_per_image"] == 2 * macs
    assert "QNetwork" in run("--config=ResNet8-standard-agmax", "--summary").out


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_demo_reaches_its_accuracy_and_evaluates_to_the_same(run: Run, precision: str) -> None:
    words = ("--config=ResNet8-cutout-agmax", "--dataset=digits", "--json", f"train.precision={precision}")
    trained, evaluated = run(*words, "--train").json, run(*words, "--eval", "--resume").json
    assert trained["top1"] >= 98.5
    assert evaluated["top1"] == trained["top1"]
