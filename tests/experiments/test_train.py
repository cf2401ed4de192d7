"""--train: the files of the run folder, every method, and runs of several seeds."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agmax.augment.pipeline import Pipeline
from agmax.config import names
from agmax.core.batch import Batch
from agmax.evaluation.metrics import computed_metrics
from agmax.experiments import results
from agmax.experiments.results import Result
from agmax.training.loop import Trainer
from helpers.training import TINY, Run, assert_same_weights, loss_log, rows, train, weights

# --- the whole way -------------------------------------------------------------------------------------------------


def test_a_training_leaves_a_complete_run_folder(run: Run) -> None:
    result = train(run, "ResNet8-cutout-agmax", "dataset.validation=0.05")
    folder = Path(result["run_folder"])
    assert folder == Path("runs/ResNet8-cutout-agmax/digits-s0")
    names = {path.name for path in folder.iterdir()} - {".lock"}
    files = [
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "predictions.npz",
        "result.json",
        "state.json",
        "train.log",
    ]
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


def test_predictions_agree_with_the_result(run: Run) -> None:
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


def test_the_first_line_has_steps_images_and_checkpoint_size(run: Run) -> None:
    answer = run("--config=ResNet8-standard", "--train", *TINY)
    first = answer.err.splitlines()[0]
    assert "3 epochs of 4 steps with 100 images" in first
    assert "on the CPU" in first
    size = max(path.stat().st_size for path in Path("runs/ResNet8-standard/digits-s0/checkpoints").iterdir())
    said = float(first.split("checkpoints of ")[1].split(" MiB")[0])
    assert said == pytest.approx(size / 2**20, abs=0.1)
    assert "minutes of training left" in answer.err


# --- methods -------------------------------------------------------------------------------------------------------


def test_agmax_with_zero_weights_is_two_views_bit_for_bit(run: Run) -> None:
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


def test_several_runs_are_summarized(run: Run) -> None:
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


def test_runs_without_a_speed_are_summarized() -> None:
    """A run that was killed after its last step has none."""
    about = {field.name: None for field in dataclasses.fields(Result)} | {"robustness": {}, "published": {}}
    values, more = dict.fromkeys(computed_metrics(), 1.0), {"seed": 0, "seconds": 0.0}
    made = [Result(**{**about, **more, "values": values, "images_per_second": speed}) for speed in (None, 3.0)]  # type: ignore[arg-type]
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


def test_a_row_has_the_seconds_of_augmentation_in_the_epoch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
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
