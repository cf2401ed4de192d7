"""Build the objective, optimizer, schedule, evaluators and trainer of a configuration."""

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
from agmax.data.fingerprint import fingerprint
from agmax.data.loader import Loader
from agmax.data.splits import Dataset, partition, subset
from agmax.evaluation.predict import Evaluator, predict
from agmax.evaluation.robustness import MEASURES
from agmax.models.classifier import Classifier
from agmax.optim import lr_schedules, optimizers
from agmax.training.loop import CheckpointStore, MetricsLog, Trainer, TrainingPlan, TrainingStore, TrainStep


def objective(config: Config) -> losses.Criterion:
    """Return the loss of the training; terms without a setting keep the weight of their table."""
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
    """Return the optimizer of all parameters of the classifier."""
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
    """Check before a training that the optimizer can be created with these settings.

    Raises:
        UsageError: the optimizer refuses them, or needs a package or device that is missing.
    """
    name = config.optimizer.name
    why = optimizers.reason_unusable(name, **_optimizer_settings(config))
    if why:
        raise UsageError(
            f"wrong value optimizer.name={name!r}", why=why, remedy="Write another optimizer, or other settings"
        )


def learning_rate(config: Config, steps_per_epoch: int) -> Callable[..., float]:
    """Return the learning rate as a function of the step, with those settings that the schedule's function takes."""
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
    """Return the evaluator of the classifier on a split, in `evaluation.precision`."""
    return Evaluator(_bind(predict, config, classifier, data, device))


def robustness(config: Config, classifier: Classifier, data: Dataset, device: torch.device) -> dict[str, Any]:
    """Measure occlusion and offsets, if the configuration has them, in `evaluation.precision`; add the seconds."""
    names = [name for name in MEASURES if getattr(config.evaluation, name)]
    if not names:
        return {}
    limit = config.evaluation.robustness_limit
    if limit is not None and limit < len(data.labels):
        data = subset(data, partition(data.labels, limit=limit, seed=0).train)
    size = {"image_size": config.test_image_size}
    start_time = time.perf_counter()
    tables: dict[str, Any] = {name: _bind(MEASURES[name], config, classifier, data, device, **size)() for name in names}
    return tables | {"robustness_seconds": time.perf_counter() - start_time}


def _bind(
    measure: Callable[..., Any],
    config: Config,
    classifier: Classifier,
    data: Dataset,
    device: torch.device,
    **more: Any,
) -> Callable[[], Any]:
    """Bind `measure` to the classifier and a split, to be called in `evaluation.precision`."""
    loader = test_loader(config, data, device)
    mean, std = config.normalization
    dtype = devices.autocast_dtype(config.evaluation.precision, device)
    parallel = devices.data_parallel(classifier, device)
    options = {"batch_size": config.evaluation.batch_size, "mean": mean, "std": std, "device": device, **more}

    def call() -> Any:
        training_dtype, classifier.autocast = classifier.autocast, dtype
        try:
            return measure(parallel, loader, **options)
        finally:
            classifier.autocast = training_dtype

    return call


def num_steps(config: Config, num_images: int) -> int:
    """Return the number of steps in an epoch.

    Raises:
        DataError: there are too few images for one step.
    """
    steps = sampler.num_steps(num_images, config.train.batch_size)
    if steps == 0:
        where, remedy = f"{num_images} in the data set", "Add images, or raise dataset.train_limit"
        raise DataError("too few training images", where=where, why="a step needs 2", remedy=remedy)
    return steps


def trainer(
    config: Config,
    data: Splits,
    loader: Loader,
    classifier: Classifier,
    *,
    device: torch.device,
    metrics_log: MetricsLog,
    checkpoints: CheckpointStore,
    report: Callable[[dict[str, Any]], None],
    description: dict[str, Any],
) -> Trainer:
    """Return the trainer; `classifier` is on `device` already, `report` is called with every row of the metrics log.

    `description` is stored in every checkpoint, in plain types.
    """
    classifier.autocast = devices.autocast_dtype(config.train.precision, device)
    evaluation_splits = {"validation": data.validation, "test": data.test}
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
        save_every_minutes=config.train.save_every_minutes,
        time_limit=config.train.time_limit,
        log_every_steps=config.train.log_every_steps,
    )
    evaluators = {
        name: evaluator(config, classifier, split, device) for name, split in evaluation_splits.items() if split
    }
    store = TrainingStore(metrics_log, checkpoints, report, description)
    return Trainer(step, loader, plan, evaluators=evaluators, store=store)


def description(config: Config, data: Dataset) -> dict[str, Any]:
    """Return what every checkpoint stores of settings and data: class names, number and fingerprint of the images."""
    return {
        "config": config.model_dump(mode="json"),
        "class_names": list(data.class_names),
        "num_images": len(data.labels),
        "fingerprint": fingerprint(data),
    }
