"""Evaluate weights on a split, for the command line, the API and the end of a training."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from agmax import builders
from agmax.checkpoints import agmax_format
from agmax.config.schema import Config
from agmax.core import devices
from agmax.data.splits import Dataset
from agmax.evaluation.metrics import metrics, per_class
from agmax.evaluation.predict import Predictions
from agmax.experiments.results import Metrics
from agmax.experiments.run_folder import run_folder_of
from agmax.experiments.saved import Checkpoint, check_data
from agmax.experiments.start import Start
from agmax.models.classifier import Classifier


class Evaluation(NamedTuple):
    """The metrics of a split, and the predictions that they were computed from."""

    metrics: Metrics
    predictions: Predictions


def evaluate(start: Start, *, split: str = "test", allow_nonfinite: bool = False) -> Evaluation:
    """Evaluate weights on a split of the configured data set; nothing is written.

    Raises:
        DataError: the images are missing, or their classes are not those of the weights.
        CheckpointError: the weights belong to another network or, unless `allow_nonfinite`, are not finite.
        ResourceError: there is no such device.
    """
    checkpoint, device = start.checkpoint, devices.choose_device(start.resolved.config.train.device)
    data = builders.split(start.resolved.config, split)
    config = builders.with_num_classes(start.resolved.config, lambda: data)
    devices.keep_freed_memory()
    if checkpoint is None:
        classifier = builders.model(config)
    else:
        weights = checkpoint.state["model"]
        classifier = builders.restore_model(
            config, weights, where=checkpoint.path, saved=checkpoint.config, allow_nonfinite=allow_nonfinite
        )
        check_data(checkpoint, config, data.class_names)
    path = checkpoint.path if checkpoint else None
    evaluation = measure(config, classifier.to(device), data, device, split=split, checkpoint=path)
    if checkpoint is None:
        return evaluation
    published = _published_numbers(config, checkpoint, split)
    return evaluation._replace(metrics=replace(evaluation.metrics, published=published))


def measure(
    config: Config,
    classifier: Classifier,
    data: Dataset,
    device: torch.device,
    *,
    split: str,
    checkpoint: Path | None,
    predictions: Predictions | None = None,
    with_robustness: bool = True,
) -> Evaluation:
    """Evaluate a classifier that is on `device` already; `checkpoint` is the file of its weights.

    `predictions` are used instead of new ones if given. `with_robustness=False` skips occlusion and offsets.
    """
    start_time = time.perf_counter()
    if predictions is None:
        predictions = builders.evaluator(config, classifier, data, device).latest()
    seconds = time.perf_counter() - start_time
    values = Metrics(
        config=config.name,
        dataset=config.dataset.name,
        split=split,
        num_images=len(predictions.labels),
        values=metrics(predictions.logits, predictions.labels),
        per_class=per_class(predictions.logits, predictions.labels, data.class_names),
        robustness=builders.robustness(config, classifier, data, device) if with_robustness else {},
        seed=config.train.seed,
        epochs=config.train.epochs,
        run_folder=run_folder_of(checkpoint) if checkpoint else None,
        checkpoint=str(checkpoint) if checkpoint else None,
        images_per_second=len(predictions.labels) / seconds,
        seconds=seconds,
    )
    return Evaluation(values, predictions)


def _published_numbers(config: Config, checkpoint: Checkpoint, split: str) -> dict[str, Any]:
    """Return the published top1 and the hash of a released file, if it is evaluated on ImageNet's test split."""
    name, is_as_published = checkpoint.path.name, (config.dataset.name, split) == ("imagenet", "test")
    if name not in agmax_format.RELEASED or not is_as_published or "sha256" not in checkpoint.state:
        return {}
    return {"published_top1": agmax_format.RELEASED[name].top1, "sha256": checkpoint.state["sha256"]}
