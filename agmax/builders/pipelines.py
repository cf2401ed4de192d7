"""The augmentation of a configuration: each slot's word looked up in its table."""

from collections.abc import Callable

import torch

from agmax.augment import transforms
from agmax.augment.pipeline import Hiding, Pipeline, Slot
from agmax.builders.networks import num_classes
from agmax.config.schema import Config
from agmax.core.batch import Batch, RawBatch


def pipeline(config: Config) -> Pipeline:
    """Make the augmentation pipeline: each slot's word of the configuration looked up in its table."""
    augment = config.augment
    settings = augment.model_dump()
    mean, std = config.normalisation
    on_pixels: list[Slot] = []
    if augment.crop in transforms.CROPS:
        on_pixels.append(transforms.CROPS[augment.crop](**settings[augment.crop]))
    if augment.flip:
        on_pixels.append(transforms.flip())
    if augment.policy != "none":
        on_pixels.append(transforms.POLICIES[augment.policy](**settings.get(augment.policy, {})))
    if any(settings["color_jitter"].values()):
        on_pixels.append(transforms.color_jitter(**settings["color_jitter"]))
    on_floats: list[Slot] = []
    if augment.lighting.std:
        on_floats.append(transforms.lighting(augment.lighting.std, std))
    hiding = [
        Hiding(table[word](**settings[transforms.SETTINGS_OF.get(word, word)]), word in transforms.SOFTENS)
        for table, word in ((transforms.ERASERS, augment.erase), (transforms.WINDOWS, augment.crop))
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
        soften=transforms.soften(num_classes(config), **settings["softening"])
        if any(one.softens for one in hiding)
        else None,
        mix=transforms.MIXERS[augment.mix](**mix_settings) if augment.mix != "none" else None,
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
    sample = RawBatch(blank, torch.zeros(part, dtype=torch.int64), torch.arange(part))
    shares = [make(sample, step=step).visible for step in range(num_images // part)]
    return torch.cat([share.flatten() for share in shares if share is not None])


def augmentation(config: Config, steps_per_epoch: int) -> Callable[..., Batch]:
    """Make the augmentation of a training: one pipeline, and another for the final epochs."""
    first = pipeline(config)
    last = pipeline(_of_final_epochs(config)) if config.num_final_epochs else first
    num_first_steps = (config.train.epochs - config.num_final_epochs) * steps_per_epoch

    def augment(sample: RawBatch, *, step: int) -> Batch:
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
