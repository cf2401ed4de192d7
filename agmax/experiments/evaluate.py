"""One evaluation, for the command line, the API and the end of a training."""

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
from agmax.experiments.saved import Saved, check_data
from agmax.experiments.start import Start
from agmax.models.classifier import Classifier


class Evaluation(NamedTuple):
    """The metrics of a split, and what they were computed from."""

    metrics: Metrics
    predictions: Predictions


def evaluate(start: Start, *, split: str = "test", allow_nonfinite: bool = False) -> Evaluation:
    """Evaluate weights on a split of the data that their configuration names; nothing is written.

    Raises:
        DataError: the images are not there, or have other classes than the weights know.
        CheckpointError: the weights are of another network or, unless `allow_nonfinite`, no finite numbers.
        ResourceError: there is no such device.
    """
    saved, device = start.checkpoint, devices.choose_device(start.resolved.config.train.device)
    data = builders.split(start.resolved.config, split)
    config = builders.with_num_classes(start.resolved.config, lambda: data)
    devices.keep_freed_memory()
    if saved is None:
        classifier = builders.model(config)
    else:
        weights = saved.state["model"]
        classifier = builders.restore_model(
            config, weights, where=saved.path, saved=saved.config, allow_nonfinite=allow_nonfinite
        )
        check_data(saved, config, data.class_names)
    path = saved.path if saved else None
    found = measure(config, classifier.to(device), data, device, split=split, checkpoint=path)
    if saved is None:
        return found
    return found._replace(metrics=replace(found.metrics, published=_published_numbers(config, saved, split)))


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
    """Evaluate a classifier that is on the device; `checkpoint` is the file that its weights are in.

    Where a training has its `predictions` already, they are not made again, and it measures what is robust on test
    images alone.
    """
    started = time.perf_counter()
    if predictions is None:
        predictions = builders.evaluator(config, classifier, data, device).latest()
    seconds = time.perf_counter() - started
    found = Metrics(
        config=config.name,
        dataset=config.dataset.name,
        split=split,
        num_images=len(predictions.labels),
        scores=metrics(predictions.logits, predictions.labels),
        per_class=per_class(predictions.logits, predictions.labels, data.class_names),
        robustness=builders.robustness(config, classifier, data, device) if with_robustness else {},
        seed=config.train.seed,
        epochs=config.train.epochs,
        run_folder=run_folder_of(checkpoint) if checkpoint else None,
        checkpoint=str(checkpoint) if checkpoint else None,
        images_per_second=len(predictions.labels) / seconds,
        seconds=seconds,
    )
    return Evaluation(found, predictions)


def _published_numbers(config: Config, saved: Saved, split: str) -> dict[str, Any]:
    """Return the published top1 and the hash of a released file that is evaluated as it was published."""
    is_as_published = (config.dataset.name, split) == ("imagenet", "test")
    if saved.path.name not in agmax_format.RELEASED or not is_as_published or "sha256" not in saved.state:
        return {}
    return {"published_top1": agmax_format.RELEASED[saved.path.name].top1, "sha256": saved.state["sha256"]}
