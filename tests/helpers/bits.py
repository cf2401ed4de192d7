"""The cases whose bits are frozen in tests/golden/bits.json, and their images."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from agmax.config import names, resolve
from agmax.config.resolve import Setting
from agmax.config.schema import Config
from agmax.core.batch import RawBatch

SIZES = (16, 16, 5)
"""Images of steps 0, 1 and the last, short one."""

MIXTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ResNet8-auto_augment-cutout-agmax": ("cifar10", "", {}),
    "ResNet8-rand_augment-cutmix-agmax": ("cifar10", "", {"augment.rand_augment.definition": "agmax"}),
    "ResNet8-auto_augment-cutmix-agmax": ("svhn", "", {}),
    "ResNet8-mixup-label_smoothing": ("cifar100", "", {}),
    "ResNet8-mixup-cutout-two_views": ("fashion_mnist", "", {"augment.mixup.alpha": 0.4}),
    "ResNet8-soft_crop-rand_augment": ("cifar100", "", {}),
    "ResNet8-soft_crop-cutmix-agmax": ("cifar10", "", {}),
    "ResNet8-soft_crop-soft_cutout": ("cifar10", "", {"augment.softening.confidence_source": "shuffled"}),
    "ResNet8-soft_crop": ("cifar10", "iou, mean", {"augment.softening.visibility": "iou"}),
    "ResNet8-soft_crop-two_views": ("cifar10", "of the batch", {"augment.softening.reweight": "batch_mean"}),
    "ResNet8-soft_random_erasing-agmax": ("cifar10", "weights", {"augment.softening.applies_to": "weight"}),
    "ResNet8-random_erasing-trivial_augment-js": ("cifar10", "", {"objective.num_views": 3}),
    "ResNet8-auto_augment-agmax": ("cifar10", "identical views", {"augment.views": "identical"}),
    "ResNet8-auto_augment": ("cifar10", "torchvision", {"augment.auto_augment.magnitudes": "torchvision"}),
    "ResNet8-cutmix-soft_crop": ("cifar10", "weak", {"augment.weak_fraction": 1.0}),
    "ResNet8-auto_augment-cutout": ("imagenet", "", {"dataset.image_size": 64}),
    "ResNet8-rand_augment-cutmix-agmax imagenet": ("imagenet", "", {"dataset.image_size": 48}),
}
"""Name -> data set, a remark that distinguishes the case, and settings."""


def cases() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return key -> (configuration, data set, settings) for every augment and method part, and the mixtures."""
    found: dict[str, tuple[str, str, dict[str, Any]]] = {}
    for group in ("augment", "method"):
        for item in names.examples(group):
            settings = {"model.pretrained": False} if item.part == "fine_tune" else {}
            found[f"{group} {item.part}"] = (f"ResNet8-{item.part}", "cifar10", settings)
    for name, (dataset, more, settings) in MIXTURES.items():
        words = " ".join(word for word in (name, dataset, more) if word)
        found[words] = (name.split()[0], dataset, settings)
    return found


CASES = cases()


def configured(name: str, dataset: str, settings: dict[str, Any]) -> Config:
    """Resolve a configuration that trains three steps of few images."""
    typed = {"train.epochs": 1, "train.batch_size": SIZES[0], "train.device": "cpu", "schedule.warmup_epochs": 0.0}
    layers = [Setting(key, value, "test") for key, value in {**typed, **settings}.items()]
    return resolve.resolve(name, dataset=dataset, settings=layers).config


def samples(config: Config) -> Iterator[RawBatch]:
    """Make the same images at all times: slopes with grain, and separate views for crops from files."""
    rng, size = np.random.default_rng(7), config.dataset.image_size
    views = (config.objective.num_views,) if config.augment.crop == "random_resized" else ()
    for count in SIZES:
        y, x = np.mgrid[:size, :size]
        slopes = rng.integers(-9, 10, (2, count, *views, config.dataset.channels, 1, 1))
        grain = rng.integers(0, 60, (count, *views, config.dataset.channels, size, size))
        pixels = (slopes[0] * y + slopes[1] * x + grain) % 256
        labels = rng.integers(0, config.dataset.num_classes or 10, count)
        yield RawBatch(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels), torch.arange(count))
