"""The augmentation of a configuration: each slot's word looked up in its table."""

from collections.abc import Callable
from typing import TypeVar

import torch

from agmax.augment import ColorJitter, Key, PCALighting, Pipeline, RandomHorizontalFlip, Softening, Transform
from agmax.augment.mixing import MIXES
from agmax.augment.transforms import CROPS, ERASERS, POLICIES
from agmax.builders.networks import num_classes
from agmax.config.augmentation import SOFTENS, AugmentConfig
from agmax.config.schema import Config
from agmax.core.batch import Batch, RawBatch
from agmax.core.errors import UsageError

T = TypeVar("T")

SHARED_SETTINGS = {"wide": "soft", "soft_cutout": "cutout", "soft_random_erasing": "random_erasing"}
"""Words that share the block of another."""


def pipeline(config: Config) -> Pipeline:
    """Make the augmentation pipeline: each slot's word of the configuration looked up in its table."""
    augment = config.augment
    mean, std = config.normalization
    words = ((CROPS, augment.crop), (POLICIES, augment.policy), (ERASERS, augment.erase))
    found = {word: _make(table[word], augment, word) for table, word in words if word in table}
    transforms: list[Transform] = list(found.values())
    if augment.flip:
        transforms.append(RandomHorizontalFlip())
    if any((augment.color_jitter.brightness, augment.color_jitter.contrast, augment.color_jitter.saturation)):
        transforms.append(_make(ColorJitter, augment, "color_jitter"))
    if augment.pca_lighting.std:
        transforms.append(_make(PCALighting, augment, "pca_lighting", image_std=tuple(std)))
    soft = tuple(transform.slot for word, transform in found.items() if word in SOFTENS)
    return Pipeline(
        *transforms,
        mix=None if augment.mix == "none" else _make(MIXES[augment.mix], augment, augment.mix),
        mean=mean,
        std=std,
        num_classes=num_classes(config),
        num_views=config.objective.num_views,
        label_smoothing=config.even_smoothing,
        softening=_make(Softening, augment, "softening", occluded_by=soft) if soft else None,
        views_are_alike=augment.views == "identical",
    )


def _make(kind: Callable[..., T], augment: AugmentConfig, word: str, **more: object) -> T:
    """Make what a word stands for, each of the settings under it given as the field of its name."""
    block = SHARED_SETTINGS.get(word, word)
    section = getattr(augment, block, None)
    names = () if section is None else type(section).model_fields
    settings = {name: getattr(section, name) for name in names}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    try:
        return kind(**values, **more)
    except ValueError as error:
        raise UsageError("settings do not fit", where=f"augment.{block}", why=str(error)) from error


def sample_visible_fractions(config: Config, *, num_images: int = 4096) -> torch.Tensor | None:
    """Draw the visible shares [M] of so many images that soften targets; None where nothing does."""
    make, size, part = pipeline(config), config.dataset.image_size, 64
    shape = (config.dataset.channels, size, size)
    drawn = [make.visible_fractions(part, shape, Key(config.train.seed, step)) for step in range(num_images // part)]
    fractions = [softening.flatten() for _, softening in drawn if softening is not None]
    return torch.cat(fractions) if fractions else None


def augmentation(config: Config, steps_per_epoch: int) -> Callable[..., Batch]:
    """Make the augmentation of a training: one pipeline, and another for the final epochs."""
    first = pipeline(config)
    last = pipeline(_weak_augmentation(config)) if config.num_weak_epochs else first
    num_first_steps = (config.train.epochs - config.num_weak_epochs) * steps_per_epoch

    def augment(raw: RawBatch, *, step: int) -> Batch:
        make = first if step < num_first_steps else last
        return make(raw.images, raw.labels, key=Key(config.train.seed, step))

    return augment


def _weak_augmentation(config: Config) -> Config:
    """Return the configuration of the weak-augmentation epochs: small offsets, small boxes, nothing mixed."""
    mapping = config.model_dump()
    augment, divisor = mapping["augment"], config.augment.weak_divisor
    augment["soft"]["sigma"] /= divisor
    augment["cutout"]["size"] /= divisor
    augment["random_erasing"]["scale"] = [area / divisor**2 for area in augment["random_erasing"]["scale"]]
    augment["mix"] = "none"
    return Config.model_validate(mapping)
