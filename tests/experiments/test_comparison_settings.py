"""Settings for fair comparisons: images held out by a seed of their own, fewer evaluations, views as controls."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import agmax
from agmax import builders
from agmax.builders import trainers
from agmax.checkpoints.read import load
from agmax.config import reader
from agmax.config.resolve import Setting, resolve
from agmax.config.schema import Config
from agmax.core.batch import Batch, RawBatch
from agmax.data import datasets, sampler
from agmax.data.splits import InMemoryDataset
from agmax.evaluation.metrics import num_correct
from agmax.evaluation.predict import Predictions
from agmax.experiments import results
from agmax.experiments.run_folder import RunFolder
from agmax.training.loop import Trainer
from helpers.command import Answer
from helpers.images import write_tree
from helpers.training import Killed, assert_same_weights

Run = Callable[..., Answer]

CPU = torch.device("cpu")
TINY = (
    "--dataset=digits",
    "dataset.train_limit=100",
    "dataset.image_size=8",
    "augment.standard.padding=1",
    "train.batch_size=32",
)
"""Four steps an epoch."""


def configured(name: str, dataset: str = "digits", **settings: Any) -> Config:
    given = [Setting(key.replace("__", "."), value, "test") for key, value in settings.items()]
    return resolve(name, dataset=dataset, settings=given).config


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(name: str, *settings: str) -> dict[str, Any]:
    """Train on a few digits under settings written as on the command line."""
    written = (setting.partition("=") for setting in (*TINY[1:], *settings))
    overrides = {key: reader.parse_value(value) for key, _, value in written}
    return agmax.train(name, dataset="digits", overrides=overrides).to_dict()


def rows(folder: str | Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl without what depends on time."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "timing"} for line in lines]


# --- held-out images -----------------------------------------------------------------------------------------------

HELD_OUT = ("dataset.validation=0.05", "dataset.extra_test=90", "dataset.split_seed=3", "train.epochs=1")


def test_an_evaluation_measures_exactly_the_images_that_the_training_held_out(run: Run) -> None:
    trained = train("ResNet8-standard", *HELD_OUT, "train.seed=4")
    assert trained["num_images"] == 360 + 90
    left = np.load(f"{trained['run_folder']}/predictions.npz")
    assert left["test_indices"][:360].tolist() == list(range(360)) and len(left["validation_indices"]) == 72
    for words in (
        ("--resume", trained["checkpoint"]),
        ("--config=ResNet8-standard", "--resume", trained["checkpoint"]),
        ("--config=ResNet8-standard", *TINY, *HELD_OUT, "--seed=4", "--resume"),
    ):
        for split in ("test", "validation"):
            answer = run("--eval", "--json", f"--split={split}", "--predictions=mine.npz", "--force", *words)
            assert answer.status == 0, answer.err
            mine = np.load("mine.npz")
            for part in ("indices", "labels", "logits"):
                assert np.array_equal(mine[f"{split}_{part}"], left[f"{split}_{part}"])
            if split == "test":
                assert answer.json["top1"] == trained["top1"]


def test_runs_of_several_seeds_are_measured_on_the_same_images_and_trained_on_others() -> None:
    runs = [train("ResNet8-standard", *HELD_OUT, f"train.seed={seed}") for seed in (0, 1)]
    left = [np.load(f"{result['run_folder']}/predictions.npz") for result in runs]
    for part in ("test_indices", "test_labels", "validation_indices"):
        assert np.array_equal(left[0][part], left[1][part])
    assert not np.array_equal(left[0]["test_logits"], left[1]["test_logits"])


def test_a_training_without_the_test_images_never_reads_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read = datasets.DATASETS["digits"]

    def guarded(root: Path, is_training: bool) -> Any:
        assert is_training, "the test images are read"
        return read(root, is_training)

    with monkeypatch.context() as patch:
        patch.setitem(datasets.DATASETS, "digits", guarded)
        result = train("ResNet8-cutout", *HELD_OUT, "evaluation.test=false")
        with pytest.raises(AssertionError, match="the test images are read"):
            train("ResNet8-cutout", *HELD_OUT)
    assert (result["split"], result["num_images"]) == ("validation", 72)
    assert result["best"]["chosen_on"] == "validation" and result["best"]["test_top1"] is None
    for row in rows(result["run_folder"]):
        assert "validation_top1" in row and not [key for key in row if key.startswith("test")]
    assert {name.split("_")[0] for name in np.load(f"{result['run_folder']}/predictions.npz").files} == {"validation"}
    tested = train("ResNet8-cutout", *HELD_OUT, "train.runs_dir=tested")
    assert_same_weights(result["checkpoint"], tested["checkpoint"])
    later = run("--eval", "--json", "--resume", result["checkpoint"])
    assert (later.json["split"], later.json["num_images"]) == ("test", 450)
    assert later.json["top1"] == tested["top1"]


def test_a_training_without_images_to_evaluate_on_exits_with_2(run: Run) -> None:
    answer = run("--config=ResNet8", "--train", *TINY, "evaluation.test=false")
    assert answer.status == 2
    assert "settings do not fit: evaluation.test" in answer.err and "dataset.validation=0.1" in answer.err


# --- fewer evaluations ----------------------------------------------------------------------------------------

FEW_EVALUATIONS = ("train.epochs=5", "evaluation.every_epochs=2", "dataset.validation=0.05", "model.dropout=0.1")


def test_an_epoch_without_evaluation_has_only_its_losses_and_the_last_is_always_evaluated() -> None:
    few = train("ResNet8-cutout", *FEW_EVALUATIONS)
    always = train("ResNet8-cutout", *FEW_EVALUATIONS, "evaluation.every_epochs=1", "train.runs_dir=always")
    for row, full in zip(rows(few["run_folder"]), rows(always["run_folder"]), strict=True):
        metrics = {key for key in full if key.startswith(("test_", "validation_"))}
        assert len(metrics) == 8
        losses = {key: value for key, value in full.items() if key not in metrics}
        assert row == (full if row["epoch"] in (2, 4, 5) else losses)
    assert_same_weights(few["checkpoint"], always["checkpoint"])
    for key in ("top1", "nll", "ece", "samples_seen"):
        assert few[key] == always[key]


def test_with_fewer_epochs_than_every_epochs_only_the_last_is_evaluated() -> None:
    result = train("ResNet8-standard", "train.epochs=3", "evaluation.every_epochs=10")
    assert [("test_top1" in row) for row in rows(result["run_folder"])] == [False, False, True]
    assert result["best"]["epoch"] == 3


def test_tensorboard_and_progress_lines_show_only_evaluated_epochs(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    answer = run("--config=ResNet8-standard", "--train", *TINY, *FEW_EVALUATIONS, "--json")
    events = EventAccumulator(f"{answer.json['run_folder']}/tensorboard")
    events.Reload()
    assert [event.step for event in events.Scalars("test_top1")] == [8, 16, 20]
    assert [event.step for event in events.Scalars("train_loss")] == [4, 8, 12, 16, 20]
    said = [line for line in answer.err.splitlines() if line.startswith("epoch ")]
    assert [("top1" in line) for line in said] == [False, True, False, True, True]


def test_the_best_epoch_is_chosen_among_evaluated_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are set by hand: the third epoch would be the best of all, the second is the best that is evaluated."""
    scores = {1: 50.0, 2: 70.0, 3: 99.0, 4: 60.0, 5: 70.0}
    finish, evaluate = Trainer.finish_epoch, dict[str, Any]()

    def finished(trainer: Trainer, **times: Any) -> None:
        epoch = trainer.step // trainer.plan.steps_per_epoch
        evaluate["row"] = {"top1": scores[epoch], "top5": 100.0, "nll": 1.0, "ece": 0.0}
        for evaluator in trainer.evaluators.values():
            monkeypatch.setattr(type(evaluator), "__call__", lambda _: evaluate["row"])
        finish(trainer, **times)

    monkeypatch.setattr(Trainer, "finish_epoch", finished)
    result = train("ResNet8-standard", *FEW_EVALUATIONS)
    assert (result["best"]["epoch"], result["best"]["validation_top1"]) == (2, 70.0)
    assert load(Path(result["run_folder"]) / "checkpoints" / "best.pth")["step"] == 8


def test_a_training_with_few_evaluations_resumes_bit_for_bit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the first epoch, in the third, after it, and in the last."""
    words = ("--config=ResNet8-cutmix-agmax", *TINY, *FEW_EVALUATIONS, "train.save_every_steps=2")
    assert_resumed_alike(run, monkeypatch, *words, steps=[3, 11, 12, 19])


def assert_resumed_alike(run: Run, monkeypatch: pytest.MonkeyPatch, *words: str, steps: list[int]) -> None:
    """Train without interruption, and again killed before each of the steps, and compare the run folders."""
    whole = run(*words, "--train", "--json", "train.runs_dir=whole").json
    original = Trainer.train_step
    waiting = list(steps)

    def dying(trainer: Trainer, sample: Any) -> Any:
        if trainer.step in waiting:
            waiting.remove(trainer.step)
            raise Killed
        return original(trainer, sample)

    monkeypatch.setattr(Trainer, "train_step", dying)
    for number in range(len(steps)):
        with pytest.raises(Killed):
            run(*words, "--train", *(["--resume"] if number else []))
    answer = run(*words, "--train", "--resume", "--json")
    assert answer.status == 0 and not waiting, answer.err
    resumed = answer.json
    assert rows(resumed["run_folder"]) == rows(whole["run_folder"])
    assert_same_weights(resumed["checkpoint"], whole["checkpoint"])
    best = [Path(result["run_folder"]) / "checkpoints" / "best.pth" for result in (resumed, whole)]
    assert_same_weights(*best)
    for key in ("top1", "nll", "ece", "best"):
        assert resumed[key] == whole[key]


def test_killed_between_a_step_and_the_row_of_an_epoch_without_evaluation(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--config=ResNet8-cutout", *TINY, *FEW_EVALUATIONS)
    whole = run(*words, "--train", "--json", "train.runs_dir=whole").json
    append = RunFolder.append

    def dying(folder: RunFolder, row: dict[str, Any]) -> None:
        if row["epoch"] == 3:
            raise Killed
        append(folder, row)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", dying)
        with pytest.raises(Killed):
            run(*words, "--train")
    resumed = run(*words, "--train", "--resume", "--json").json
    assert rows(resumed["run_folder"]) == rows(whole["run_folder"])
    assert resumed["best"] == whole["best"]


# --- views ---------------------------------------------------------------------------------------------------------

PARTS = [
    "standard",
    "auto_augment",
    "rand_augment",
    "trivial_augment",
    "cutout",
    "random_erasing",
    "wide_crop",
    "soft_crop-cutout-mixup",
    "auto_augment-cutmix",
]


def batches(name: str, *, step: int, **settings: Any) -> Batch:
    """Return the training batch of a step, of 12 images of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    sample = RawBatch(torch.from_numpy(pixels), torch.arange(12) % 10, torch.arange(12))
    config = configured(name, "cifar10", augment__cutmix__p=1.0, **settings)
    return builders.augmentation(config, steps_per_epoch=1)(sample, step=step)


@pytest.mark.parametrize("parts", PARTS)
def test_identical_views_are_the_first_of_independent_ones(parts: str) -> None:
    name = f"ResNet8-{parts}-agmax"
    for step in (0, 5):
        alike = batches(name, step=step, augment__views="identical", objective__num_views=3)
        apart = batches(name, step=step, objective__num_views=3)
        for field in ("images", "targets", "weights"):
            mine, theirs = getattr(alike, field), getattr(apart, field)
            for view in range(3):
                assert torch.equal(mine[:, view], theirs[:, 0]), (field, view)
        assert not torch.equal(apart.images[:, 0], apart.images[:, 1])


@pytest.mark.parametrize("method", ["agmax_mse", "js", "tied_features"])
def test_identical_views_agree_from_the_first_step_to_the_last(method: str) -> None:
    name = f"ResNet8-cutout-{method}"
    for row in rows(train(name, "augment.views=identical", "train.epochs=2")["run_folder"]):
        assert row["agreement"] == pytest.approx(0, abs=1e-6)
    assert all(row["agreement"] > 1e-4 for row in rows(train(name, "train.epochs=2")["run_folder"]))


def test_same_class_views_are_images_of_the_label_that_they_are_trained_with() -> None:
    config = configured("ResNet8-agmax", augment__views="same_class", objective__num_views=3, train__seed=6)
    data = builders.split(config, "train")
    assert isinstance(data, InMemoryDataset)
    small = data._replace(images=data.images[:60], labels=data.labels[:60])
    source = builders.training_loader(config, small, CPU)
    plain = builders.training_loader(configured("ResNet8-agmax"), small, CPU)
    for epoch in (0, 1):
        chosen = torch.tensor([5, 59, 0, 17])
        (sample,), (alone,) = (each.batches([chosen], epoch=epoch) for each in (source, plain))
        assert sample.images.shape == (4, 3, 1, 32, 32) and sample.images.dtype == torch.uint8
        assert torch.equal(sample.images[:, 0], alone.images)  # the image itself comes first
        assert torch.equal(sample.labels, alone.labels) and torch.equal(sample.indices, alone.indices)
        (everything,) = plain.batches([torch.arange(60)], epoch=epoch)
        for views, position in zip(sample.images, chosen.tolist(), strict=True):
            for view in views[1:]:
                [found] = [k for k in range(60) if torch.equal(everything.images[k], view)]
                assert found != position and small.labels[found] == small.labels[position]
        expected = sampler.same_class_views(small.labels, epoch, num_views=3, seed=6)
        assert torch.equal(sample.images, everything.images[expected[chosen]])


def test_same_class_views_are_augmented_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[RawBatch, Batch]] = []
    original = trainers.augmentation

    def watched(config: Config, steps_per_epoch: int) -> Any:
        augment = original(config, steps_per_epoch)

        def see(sample: RawBatch, *, step: int) -> Batch:
            seen.append((sample, augment(sample, step=step)))
            return seen[-1][1]

        return see

    monkeypatch.setattr(trainers, "augmentation", watched)
    train("ResNet8-cutout-agmax", "augment.views=same_class", "train.epochs=2")
    assert len(seen) == 8
    for sample, batch in seen:
        assert sample.images.ndim == 5 and batch.images.shape[:2] == (len(sample.labels), 2)
        hot = torch.nn.functional.one_hot(sample.labels, 10).float()
        assert torch.equal(batch.targets, hot[:, None].expand(-1, 2, -1))
    first, second = ({tuple(s.indices.tolist()): s.images for s, _ in part} for part in (seen[:4], seen[4:]))
    assert first.keys() != second.keys()  # the order of another epoch


def test_the_partners_of_same_class_views_depend_only_on_the_seed() -> None:
    words = ("augment.views=same_class", "train.epochs=1", "dataset.seed=0", "model.seed=0")
    one, again, other = (train("ResNet8-no_basic_augment-agmax", *words, f"train.seed={seed}") for seed in (0, 0, 1))
    assert rows(one["run_folder"]) == rows(again["run_folder"]) != rows(other["run_folder"])
    plain = train("ResNet8-no_basic_augment-agmax", *words, "augment.views=independent")
    assert rows(plain["run_folder"]) != rows(one["run_folder"])


@pytest.mark.parametrize("views", ["identical", "same_class"])
def test_identical_and_same_class_views_resume_bit_for_bit(
    run: Run, monkeypatch: pytest.MonkeyPatch, views: str
) -> None:
    words = ("--config=ResNet8-cutmix-agmax", *TINY, "train.epochs=2", f"augment.views={views}")
    assert_resumed_alike(run, monkeypatch, *words, "train.save_every_steps=1", steps=[2, 6])


@pytest.mark.parametrize("views", ["identical", "same_class"])
def test_identical_and_same_class_views_need_images_in_memory(run: Run, tmp_path: Path, views: str) -> None:
    write_tree(tmp_path / "images", ["cat", "dog"], {"train": 4, "test": 2}, size=(16, 16))
    words = ("--config=ResNet8-agmax", "--dataset=folder", "dataset.root=images", "dataset.image_size=8")
    answer = run(*words, "--train", "train.num_workers=0", f"augment.views={views}")
    assert answer.status == 2
    [line] = [line for line in answer.err.splitlines() if line.startswith("error")]
    assert line == (
        f"error: views not possible (augment.views={views}): folder is read from files, not from memory. "
        "Write augment.views=independent, or use a data set that is in memory"
    )


def test_of_equal_logits_the_first_is_the_prediction_in_metrics_and_predictions_alike(tmp_path: Path) -> None:
    logits = torch.zeros(64, 10)
    logits[:, 3:] = 1.0  # classes 3 to 9 tie, as bfloat16 makes them
    labels = torch.arange(64) % 10
    with (tmp_path / "p.npz").open("wb") as file:
        results.write_predictions(file, {"test": Predictions(logits, labels, torch.arange(64))})
    with np.load(tmp_path / "p.npz") as saved:
        assert saved["test_predicted"].tolist() == [3] * 64
    assert num_correct(logits, labels, k=1) == sum(label == 3 for label in labels.tolist())


def test_a_training_whose_views_are_not_possible_leaves_no_run_folder(run: Run, tmp_path: Path) -> None:
    write_tree(tmp_path / "photos", ["a", "b"], {"train": 4, "test": 2})
    words = [
        "--config=ResNet8-two_views",
        "--train",
        "--dataset=folder",
        "dataset.root=photos",
        "dataset.image_size=32",
    ]
    answer = run(*words, "augment.crop=standard", "augment.views=same_class", "train.runs_dir=here")
    assert answer.status == 2 and "views not possible" in answer.err
    assert not list((tmp_path / "here").rglob("config.yaml"))
