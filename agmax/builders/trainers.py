"""What a configuration minimises, how, and by what it is measured: the training put together."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from agmax import losses
from agmax.builders.images import Splits, test_loader
from agmax.builders.pipelines import augmentation
from agmax.config.schema import Config
from agmax.core import devices
from agmax.core.errors import DataError, UsageError
from agmax.data import sampler
from agmax.data.loader import Loader
from agmax.data.splits import Dataset, partition, subset
from agmax.evaluation.predict import Evaluator, predict
from agmax.evaluation.robustness import MEASURES
from agmax.models.classifier import Classifier
from agmax.optim import lr_schedules, optimizers
from agmax.training.loop import CheckpointStore, MetricsLog, Records, Trainer, TrainingPlan, TrainStep


def objective(config: Config) -> losses.Criterion:
    """Make what training minimises; terms for which there is no setting keep the weight of their table."""
    settings = config.objective
    weights = {
        term: getattr(settings, f"{term}_weight")
        for term in ("classification", *losses.OBJECTIVES[settings.name].terms)
        if hasattr(settings, f"{term}_weight")
    }
    return losses.objective(
        settings.name,
        weights,
        subtract_entropy=settings.subtract_entropy,
        focal_gamma=settings.focal_gamma,
    )


def optimizer(config: Config, classifier: Classifier) -> torch.optim.Optimizer:
    """Make the optimizer of all the classifier's parameters."""
    head = [*classifier.backbone.get_classifier().parameters()]  # type: ignore[operator]
    head += classifier.q_network.parameters() if classifier.q_network is not None else []
    return optimizers.optimizer(classifier, config.optimizer.name, head=head, **_optimizer_settings(config))


def _optimizer_settings(config: Config) -> dict[str, Any]:
    settings = config.optimizer
    return {
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "momentum": settings.momentum,
        "nesterov": settings.nesterov,
        "decay_bias_and_norm": settings.decay_bias_and_norm,
        "backbone_lr_factor": settings.backbone_lr_factor,
    }


def check_optimizer(config: Config) -> None:
    """Find out before the work begins whether the optimizer takes these settings here.

    Raises:
        UsageError: it does not, or lacks something.
    """
    name = config.optimizer.name
    why = optimizers.reason_unusable(name, **_optimizer_settings(config))
    if why:
        raise UsageError(f"wrong value optimizer.name={name!r}", why=why, remedy="Choose another, or other settings")


def learning_rate(config: Config, steps_per_epoch: int) -> Callable[..., float]:
    """Make the learning rate, a function of the step; the schedule has the settings that its function names."""
    settings = config.schedule
    return partial(
        lr_schedules.learning_rate,
        name=settings.name,
        base=config.optimizer.lr,
        epochs=config.train.epochs,
        steps_per_epoch=steps_per_epoch,
        interval=settings.interval,
        warmup_epochs=settings.warmup_epochs,
        warmup_lr=settings.warmup_lr,
        **{key: getattr(settings, key) for key in lr_schedules.settings_of(settings.name)},
    )


def evaluator(config: Config, classifier: Classifier, data: Dataset, device: torch.device) -> Evaluator:
    """Make what evaluates the classifier on a split, in the precision of evaluations."""
    return Evaluator(_robustness_measure(predict, config, classifier, data, device))


def robustness(config: Config, classifier: Classifier, data: Dataset, device: torch.device) -> dict[str, Any]:
    """Measure what the configuration asks for of occlusion and offsets, in the precision of evaluations."""
    asked = [measure for measure in MEASURES if getattr(config.evaluation, measure)]
    limit = config.evaluation.robustness_limit
    if asked and limit is not None and limit < len(data.labels):
        data = subset(data, partition(data.labels, limit=limit, seed=0).train)
    size = {"image_size": config.test_image_size}
    started = time.perf_counter()
    found: dict[str, Any] = {
        name: _robustness_measure(MEASURES[name], config, classifier, data, device, **size)() for name in asked
    }
    return found | ({"robustness_seconds": time.perf_counter() - started} if asked else {})


def _robustness_measure(
    measure: Callable[..., Any],
    config: Config,
    classifier: Classifier,
    data: Dataset,
    device: torch.device,
    **more: Any,
) -> Callable[[], Any]:
    """Make what measures the classifier on a split, in the precision of evaluations."""
    source = test_loader(config, data, device)
    mean, std = config.normalization
    number_format = devices.autocast_dtype(config.evaluation.precision, device)
    over_all = devices.data_parallel(classifier, device)
    how = {"batch_size": config.evaluation.batch_size, "mean": mean, "std": std, "device": device, **more}

    def answer() -> Any:
        training_format, classifier.autocast = classifier.autocast, number_format
        try:
            return measure(over_all, source, **how)
        finally:
            classifier.autocast = training_format

    return answer


def num_steps(config: Config, num_images: int) -> int:
    """Return the steps of an epoch over the training images.

    Raises:
        DataError: the training images do not make one step.
    """
    steps = sampler.num_steps(num_images, config.train.batch_size)
    if steps == 0:
        raise DataError("too few training images", where=f"{num_images} in the data set", why="a step needs two")
    return steps


def trainer(
    config: Config,
    data: Splits,
    source: Loader,
    classifier: Classifier,
    *,
    device: torch.device,
    metrics_log: MetricsLog,
    checkpoints: CheckpointStore,
    report: Callable[[dict[str, Any]], None],
) -> Trainer:
    """Put a training together; `classifier` is on the device, `report` is called with every row of metrics."""
    classifier.autocast = devices.autocast_dtype(config.train.precision, device)
    parts = {"validation": data.validation, "test": data.test}
    steps_per_epoch = num_steps(config, len(data.train.labels))
    step = TrainStep(
        classifier,
        optimizer=optimizer(config, classifier),
        objective=objective(config),
        augment=augmentation(config, steps_per_epoch),
        device=device,
        seed=config.train.seed,
    )
    plan = TrainingPlan(
        epochs=config.train.epochs,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.train.batch_size,
        learning_rate=learning_rate(config, steps_per_epoch),
        seed=config.train.seed,
        patience=config.schedule.patience,
        evaluate_every_epochs=config.evaluation.every_epochs,
        save_every_steps=config.train.save_every_steps,
        log_every_steps=config.train.log_every_steps,
    )
    evaluators = {name: evaluator(config, classifier, part, device) for name, part in parts.items() if part}
    records = Records(metrics_log, checkpoints, report, description(config, data.train))
    return Trainer(step, source, plan, evaluators=evaluators, records=records)


def description(config: Config, data: Dataset) -> dict[str, Any]:
    """Return what a checkpoint says of itself, in plain types."""
    return {
        "config": config.model_dump(mode="json"),
        "class_names": list(data.class_names),
        "num_images": len(data.labels),
    }
