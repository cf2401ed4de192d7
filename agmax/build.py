"""Turn a configuration into objects: the only module that sees both."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from agmax import optim, parallel, schedules
from agmax.augment import slots
from agmax.augment.pipeline import Hiding, Pipeline, Slot
from agmax.batch import Batch, Sample
from agmax.checkpoints.store import Store
from agmax.config.resolve import with_classes
from agmax.config.schema import Config
from agmax.data import datasets, order
from agmax.data.resident import Resident
from agmax.data.source import Source
from agmax.data.split import Pixels, Split, joined, partition, subset
from agmax.data.streaming import Streaming
from agmax.data.trees import split_folders
from agmax.errors import DataError, UsageError
from agmax.evaluation.evaluate import Evaluator, predict
from agmax.evaluation.robustness import MEASURES
from agmax.models import backbones
from agmax.models.classifier import Classifier, QNetwork
from agmax.objectives import objective as objectives
from agmax.randomness import seed_for
from agmax.reports.board import Board
from agmax.run import Run
from agmax.trainer import Trainer


class Splits(NamedTuple):
    """The images of a training."""

    train: Split
    validation: Split | None
    test: Split | None


def split(config: Config, name: str) -> Split:
    """Load one split of the configured data set, less or more the training images that are kept apart."""
    if name == "validation" and not config.dataset.validation:
        return _load(config, name)
    if name == "test":
        return _test(config, _parts(config).extra_test if config.dataset.extra_test else None)
    train, validation, _ = _parts(config)
    if name == "train":
        return train
    assert validation is not None
    return validation


def splits(config: Config) -> Splits:
    """Load all that a training needs; the configuration has its number of classes.

    Raises:
        DataError: there is nothing to evaluate on.
    """
    train, validation, extra = _parts(config)
    if validation is None and _brings_validation(config):
        validation = _load(config, "validation")
    if not config.evaluation.test:
        if validation is None:
            why, remedy = "evaluation.test is false", "Write dataset.validation=0.1 too"
            raise DataError("no validation images", where=config.dataset.root, why=why, remedy=remedy)
        return Splits(train, validation, None)
    return Splits(train, validation, _test(config, extra))


def _test(config: Config, extra: Split | None) -> Split:
    """Load the test images, those that were kept apart of the training images behind them."""
    test = _load(config, "test")
    return test if extra is None else joined(test, extra)


def _load(config: Config, name: str) -> Split:
    data = config.dataset
    return datasets.load(
        data.name,
        data.root,
        split=name,
        num_classes=data.num_classes,
        test_share=data.test_share,
    )


class _Parts(NamedTuple):
    """The training images of a data set, divided."""

    train: Split
    validation: Split | None
    extra_test: Split | None


def _parts(config: Config) -> _Parts:
    """Load the training images, and divide them into what is trained on and what is kept apart."""
    data = config.dataset
    whole = _load(config, "train")
    if data.train_limit is None and not data.validation and not data.extra_test:
        return _Parts(whole, None, None)
    chosen = partition(
        whole.labels,
        limit=data.train_limit,
        validation=data.validation,
        extra_test=data.extra_test,
        seed=config.dataset_seed,
        split_seed=config.split_seed,
    )
    sizes = [len(positions) for positions in chosen]
    if sizes[0] == 0 or (data.validation and sizes[1] == 0) or (data.extra_test and sizes[2] == 0):
        why = f"{len(whole.labels)} images are divided into {sizes[0]}, {sizes[1]} and {sizes[2]}"
        raise DataError("training, validation or extra_test without images", where="dataset.validation", why=why)
    train, validation, extra = (subset(whole, positions) for positions in chosen)
    return _Parts(train, validation if data.validation else None, extra if data.extra_test else None)


def counted(config: Config, data: Callable[[], Split]) -> Config:
    """Return the configuration with a number of classes; the data are looked at where it leaves that to them."""
    return with_classes(config, len(data().class_names)) if config.dataset.num_classes is None else config


def _brings_validation(config: Config) -> bool:
    root = Path(config.dataset.root).expanduser()
    return config.dataset.name == "folder" and "validation" in split_folders(root)


def training_source(config: Config, data: Split, device: torch.device) -> Source:
    """Make what delivers training samples: from memory, or decoded and cut by workers."""
    size, augment = config.dataset.image_size, config.augment
    if isinstance(data, Pixels):
        if augment.crop == "random_resized":
            why = "its crops are cut from files"
            remedy = f"{config.dataset.name} is held in memory: write augment.crop=standard"
            raise UsageError("crop not possible", where="augment.crop=random_resized", why=why, remedy=remedy)
        views = None
        if augment.views == "same_class":
            num_views, seed = config.objective.num_views, config.train.seed
            views = partial(order.same_class, data.labels, num_views=num_views, seed=seed)
        return Resident(data, image_size=size, device=device, views=views)
    if augment.views != "independent":
        where, why = f"augment.views={augment.views}", f"{config.dataset.name} is read from files as it is needed"
        remedy = "Write augment.views=independent, or take a data set that is held in memory"
        raise UsageError("views not possible", where=where, why=why, remedy=remedy)
    crops = (augment.random_resized.scale, augment.random_resized.ratio)
    return Streaming(
        data,
        image_size=size,
        channels=config.dataset.channels,
        num_workers=parallel.num_workers(config.train.num_workers),
        pin_memory=device.type == "cuda",
        random_resized=crops if augment.crop == "random_resized" else None,
        scaled_decoding=augment.random_resized.scaled_decoding,
        exif_rotation=config.dataset.exif_rotation,
        skip_bad_images=config.dataset.on_bad_image == "skip",
        num_views=config.objective.num_views,
        seed=config.train.seed,
    )


def test_source(config: Config, data: Split, device: torch.device) -> Source:
    """Make what delivers the images of an evaluation."""
    if isinstance(data, Pixels):
        return Resident(data, image_size=config.test_image_size, device=device)
    return Streaming(
        data,
        image_size=config.test_image_size,
        channels=config.dataset.channels,
        num_workers=parallel.num_workers(config.train.num_workers),
        pin_memory=device.type == "cuda",
        exif_rotation=config.dataset.exif_rotation,
    )


def pipeline(config: Config) -> Pipeline:
    """Make the augmentation pipeline: each slot's word of the configuration looked up in its table."""
    augment = config.augment
    settings = augment.model_dump()
    mean, std = config.normalisation
    on_pixels: list[Slot] = []
    if augment.crop in slots.CROPS:
        on_pixels.append(slots.CROPS[augment.crop](**settings[augment.crop]))
    if augment.flip:
        on_pixels.append(slots.flip())
    if augment.policy != "none":
        on_pixels.append(slots.POLICIES[augment.policy](**settings.get(augment.policy, {})))
    if any(settings["color_jitter"].values()):
        on_pixels.append(slots.color_jitter(**settings["color_jitter"]))
    on_floats: list[Slot] = []
    if augment.lighting.std:
        on_floats.append(slots.lighting(augment.lighting.std, std))
    hiding = [
        Hiding(table[word](**settings[slots.SETTINGS_OF.get(word, word)]), word in slots.SOFTENS)
        for table, word in ((slots.ERASERS, augment.erase), (slots.WINDOWS, augment.crop))
        if word in table
    ]
    mix_settings = dict(settings.get(augment.mix, {}))
    probability = mix_settings.pop("probability", 1.0)
    return Pipeline(
        num_views=config.objective.num_views,
        num_classes=num_classes(config),
        mean=mean,
        std=std,
        seed=config.train.seed,
        on_pixels=on_pixels,
        on_floats=on_floats,
        hiding=hiding,
        soften=slots.soften(num_classes(config), **settings["softening"])
        if any(one.softens for one in hiding)
        else None,
        mix=slots.MIXERS[augment.mix](**mix_settings) if augment.mix != "none" else None,
        mix_probability=probability,
        label_smoothing=config.even_smoothing,
        views_are_alike=augment.views == "identical",
    )


def softening_shares(config: Config, *, num_images: int = 4096) -> torch.Tensor | None:
    """Draw the visible shares [M] of so many images that soften targets; None where nothing does."""
    make = pipeline(config)
    make.hiding, make.mix = [item for item in make.hiding if item.softens], None
    if not make.hiding:
        return None
    make.on_pixels, make.on_floats = [], []
    size, part = config.dataset.image_size, 64
    blank = torch.zeros(part, config.dataset.channels, size, size, dtype=torch.uint8)
    sample = Sample(blank, torch.zeros(part, dtype=torch.int64), torch.arange(part))
    shares = [make(sample, step=step).visible_share for step in range(num_images // part)]
    return torch.cat([share.flatten() for share in shares if share is not None])


def augmentation(config: Config, steps_per_epoch: int) -> Callable[..., Batch]:
    """Make the augmentation of a training: one pipeline, and another for the final epochs."""
    first, last = pipeline(config), pipeline(_of_final_epochs(config))
    num_first_steps = (config.train.epochs - config.num_final_epochs) * steps_per_epoch

    def augment(sample: Sample, *, step: int) -> Batch:
        return (first if step < num_first_steps else last)(sample, step=step)

    return augment


def _of_final_epochs(config: Config) -> Config:
    """Return the configuration of the final epochs: small offsets, small boxes, nothing mixed."""
    mapping = config.model_dump()
    augment, divisor = mapping["augment"], config.augment.final_divisor
    augment["soft"]["sigma"] /= divisor
    augment["cutout"]["share"] /= divisor
    augment["random_erasing"]["scale"] = [area / divisor**2 for area in augment["random_erasing"]["scale"]]
    augment["mix"] = "none"
    return Config.model_validate(mapping)


def num_classes(config: Config) -> int:
    """Return the number of classes.

    Raises:
        UsageError: it is neither given nor counted yet.
    """
    if config.dataset.num_classes is None:
        raise UsageError(
            "number of classes unknown", where="dataset.num_classes", remedy="Write it, e.g. --n-classes 10"
        )
    return config.dataset.num_classes


def model(config: Config, *, with_pretrained: bool = True) -> Classifier:
    """Make the classifier with its initial weights, on the CPU; equal rules give equal weights whatever the method.

    Without `with_pretrained` no weights are fetched, because a checkpoint's will take their place.

    Raises:
        UsageError: there is no such network, or it cannot take the images.
    """
    settings, rule = config.model, config.model.initialisation
    is_pretrained = settings.pretrained and with_pretrained
    if config.test_image_size != config.dataset.image_size and backbones.is_made_for_one_size(settings.backbone):
        why = f"{settings.backbone} is built for images of {config.dataset.image_size} pixels"
        raise UsageError("settings do not fit: dataset.test_image_size", why=why, remedy="Leave it out")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(config.model_seed, "init", "backbone"))
        backbone = backbones.create(
            settings.backbone,
            num_classes=num_classes(config),
            channels=config.input_channels,
            image_size=config.dataset.image_size,
            dropout=settings.dropout,
            pretrained=is_pretrained,
            arguments=settings.arguments,
        )
        if rule.library == "torch" and not is_pretrained:
            backbones.reset_as_torch(backbone)
        if rule.scope == "all":
            backbones.reset_normal(backbone, rule.std)
        if rule.zero_last_norm and not is_pretrained:
            backbones.zero_last_norms(backbone)
        torch.manual_seed(seed_for(config.model_seed, "init", "q_network"))
        q_network = _q_network(config)
    classifier = Classifier(backbone, q_network)
    classifier.returns_features = _returns_features(config, backbone)
    return classifier.to(memory_format=torch.channels_last)


def _q_network(config: Config) -> QNetwork | None:
    objective = config.objective
    if objective.name not in objectives.NEEDS_Q_NETWORK:
        return None
    q_network = QNetwork(objective.num_views, num_classes(config), objective.hidden_units)
    if config.model.initialisation.scope in ("all", "q_network"):
        backbones.reset_normal(q_network, config.model.initialisation.std)
    return q_network


def _returns_features(config: Config, backbone: nn.Module) -> bool:
    """Say whether the objective compares features; the logits must then be made of them by one linear layer."""
    if config.objective.name not in objectives.NEEDS_FEATURES:
        return False
    if not isinstance(backbone.get_classifier(), nn.Linear):  # type: ignore[operator]
        why = f"{config.model.backbone} has no one linear layer between its features and its logits"
        remedy = "Compare the logits: write objective.name=agmax_mse"
        raise UsageError(
            "no features to compare", where=f"objective.name={config.objective.name}", why=why, remedy=remedy
        )
    return True


def objective(config: Config) -> objectives.Objective:
    """Make what training minimises."""
    settings = config.objective
    weights = {
        "classification": settings.classification_weight,
        "agreement": settings.agreement_weight,
        "consistency": settings.consistency_weight,
    }
    return objectives.objective(
        settings.name, weights, subtract_entropy=settings.subtract_entropy, focal_gamma=settings.focal_gamma
    )


def optimizer(config: Config, classifier: Classifier) -> torch.optim.Optimizer:
    """Make the optimizer of all the classifier's parameters."""
    return optim.optimizer(classifier, **config.optimizer.model_dump())


def learning_rate(config: Config, steps_per_epoch: int) -> Callable[..., float]:
    """Make the learning rate, a function of the step."""
    settings = config.schedule.model_dump(exclude={"patience"})
    return partial(
        schedules.learning_rate,
        base=config.optimizer.lr,
        epochs=config.train.epochs,
        steps_per_epoch=steps_per_epoch,
        **settings,
    )


def evaluator(config: Config, classifier: Classifier, data: Split, device: torch.device) -> Evaluator:
    """Make what evaluates the classifier on a split, in the precision of evaluations."""
    return Evaluator(_measuring(predict, config, classifier, data, device))


def robustness(config: Config, classifier: Classifier, data: Split, device: torch.device) -> dict[str, Any]:
    """Measure what the configuration asks for of occlusion and offsets, in the precision of evaluations."""
    asked = [measure for measure in MEASURES if getattr(config.evaluation, measure)]
    limit = config.evaluation.robustness_limit
    if asked and limit is not None and limit < len(data.labels):
        data = subset(data, partition(data.labels, limit=limit, seed=0).train)
    size = {"image_size": config.test_image_size}
    started = time.perf_counter()
    found: dict[str, Any] = {
        name: _measuring(MEASURES[name], config, classifier, data, device, **size)() for name in asked
    }
    return found | ({"robustness_seconds": time.perf_counter() - started} if asked else {})


def _measuring(
    measure: Callable[..., Any], config: Config, classifier: Classifier, data: Split, device: torch.device, **more: Any
) -> Callable[[], Any]:
    """Make what measures the classifier on a split, in the precision of evaluations."""
    source = test_source(config, data, device)
    mean, std = config.normalisation
    number_format = parallel.autocast_format(config.evaluation.precision, device)
    over_all = parallel.over_devices(classifier, device)
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
    steps = order.num_steps(num_images, config.train.batch_size)
    if steps == 0:
        raise DataError("too few training images", where=f"{num_images} in the data set", why="a step needs two")
    return steps


def trainer(
    config: Config,
    data: Splits,
    source: Source,
    classifier: Classifier,
    *,
    device: torch.device,
    folder: Run,
    first_step: int = 0,
) -> Trainer:
    """Put a training together; `classifier` is on the device, `first_step` is where an interrupted run goes on."""
    classifier.autocast = parallel.autocast_format(config.train.precision, device)
    checkpoints = Store(folder.checkpoints)
    checkpoints.sweep()
    parts = {"validation": data.validation, "test": data.test}
    steps_per_epoch = num_steps(config, len(data.train.labels))
    return Trainer(
        model=classifier,
        optimizer=optimizer(config, classifier),
        objective=objective(config),
        augment=augmentation(config, steps_per_epoch),
        data=source,
        batch_size=config.train.batch_size,
        epochs=config.train.epochs,
        steps_per_epoch=steps_per_epoch,
        seed=config.train.seed,
        learning_rate=learning_rate(config, steps_per_epoch),
        patience=config.schedule.patience,
        evaluators={name: evaluator(config, classifier, part, device) for name, part in parts.items() if part},
        device=device,
        run=folder,
        checkpoints=checkpoints,
        report=Board(folder.path / "tensorboard", first_step=first_step),
        description=description(config, data.train),
        save_every_steps=config.train.save_every_steps,
        log_every_steps=config.train.log_every_steps,
        evaluate_every=config.evaluation.every_epochs,
    )


def description(config: Config, data: Split) -> dict[str, Any]:
    """Return what a checkpoint says of itself, in plain types."""
    return {
        "config": config.model_dump(mode="json"),
        "class_names": list(data.class_names),
        "num_images": len(data.labels),
    }
