"""Build the augmentation of a configuration."""

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
"""Words that use the settings block of another word."""


def pipeline(config: Config) -> Pipeline:
    """Return the augmentation pipeline, with the transform of each slot's word.

    Raises:
        UsageError: a transform refuses its settings.
    """
    augment = config.augment
    mean, std = config.normalization
    words = ((CROPS, augment.crop), (POLICIES, augment.policy), (ERASERS, augment.erase))
    by_word = {word: _make(table[word], augment, word) for table, word in words if word in table}
    transforms: list[Transform] = list(by_word.values())
    if augment.flip:
        transforms.append(RandomHorizontalFlip())
    if any((augment.color_jitter.brightness, augment.color_jitter.contrast, augment.color_jitter.saturation)):
        transforms.append(_make(ColorJitter, augment, "color_jitter"))
    if augment.pca_lighting.std:
        transforms.append(_make(PCALighting, augment, "pca_lighting", image_std=tuple(std)))
    soft_slots = tuple(transform.slot for word, transform in by_word.items() if word in SOFTENS)
    return Pipeline(
        *transforms,
        mix=None if augment.mix == "none" else _make(MIXES[augment.mix], augment, augment.mix),
        mean=mean,
        std=std,
        num_classes=num_classes(config),
        num_views=config.objective.num_views,
        label_smoothing=config.even_smoothing,
        softening=_make(Softening, augment, "softening", occluded_by=soft_slots) if soft_slots else None,
        views_are_alike=augment.views == "identical",
    )


def _make(kind: Callable[..., T], augment: AugmentConfig, word: str, **more: object) -> T:
    """Create the object of a word; the settings of its block are the fields of the same names."""
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
    """Sample the visible fractions [M] that soften the targets of `num_images` images; None if nothing softens."""
    augment, size, batch_size = pipeline(config), config.dataset.image_size, 64
    shape = (config.dataset.channels, size, size)
    keys = [Key(config.train.seed, step) for step in range(num_images // batch_size)]
    samples = [augment.visible_fractions(batch_size, shape, key) for key in keys]
    fractions = [softening.flatten() for _, softening in samples if softening is not None]
    return torch.cat(fractions) if fractions else None


def augmentation(config: Config, steps_per_epoch: int) -> Callable[..., Batch]:
    """Return the augmentation of a training, `(raw, step=...) -> Batch`: a second pipeline does the weak epochs."""
    normal = pipeline(config)
    weak = pipeline(_weak_augmentation(config)) if config.num_weak_epochs else normal
    num_normal_steps = (config.train.epochs - config.num_weak_epochs) * steps_per_epoch

    def augment(raw: RawBatch, *, step: int) -> Batch:
        transform = normal if step < num_normal_steps else weak
        return transform(raw.images, raw.labels, key=Key(config.train.seed, step))

    return augment


def _weak_augmentation(config: Config) -> Config:
    """Return the configuration of the weak-augmentation epochs: small offsets, small boxes, no mixing."""
    mapping = config.model_dump()
    augment, divisor = mapping["augment"], config.augment.weak_divisor
    augment["soft"]["sigma"] /= divisor
    augment["cutout"]["size"] /= divisor
    augment["random_erasing"]["scale"] = [area / divisor**2 for area in augment["random_erasing"]["scale"]]
    augment["mix"] = "none"
    return Config.model_validate(mapping)
