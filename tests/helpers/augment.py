"""Random images, and the augmentation of a configuration as training calls it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from agmax import builders
from agmax.augment import Key
from agmax.config.resolve import Setting, resolve
from agmax.config.schema import Config
from agmax.core.batch import Batch, RawBatch


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


class Augmentation:
    """The pipeline of a configuration, called as training calls it."""

    def __init__(self, config: Config) -> None:
        self.pipeline, self.seed = builders.pipeline(config), config.train.seed
        self.mean, self.std = self.pipeline.mean, self.pipeline.std

    def __call__(self, raw: RawBatch, *, step: int) -> Batch:
        return self.pipeline(raw.images, raw.labels, key=Key(self.seed, step))


def make_pipeline(name: str, dataset: str = "cifar10", **settings: Any) -> Augmentation:
    typed = [Setting(key.replace("__", "."), value, "test") for key, value in settings.items()]
    return Augmentation(resolve(name, dataset=dataset, settings=typed).config)


def raw_batch(count: int = 12, channels: int = 3, size: int = 32, seed: int = 0) -> RawBatch:
    return RawBatch(
        random_images(count, channels, size, size, seed=seed), torch.arange(count) % 10, torch.arange(count)
    )
