"""Mixup and CutMix: mix each image and its target row with those of another image of the batch."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from agmax.augment.checks import check_range
from agmax.augment.key import Key

Mixed = tuple[Tensor, Tensor]


class Box(NamedTuple):
    """A rectangle of pixels: rows top to bottom - 1, columns left to right - 1."""

    top: int
    bottom: int
    left: int
    right: int


def mixup(images: Tensor, targets: Tensor, *, partner: Tensor, ratio: float) -> Mixed:
    """Blend images [N, C, H, W] and target rows [N, K] with those of their partners [N] (Zhang et al. 2018, eq. 1).

    `ratio` is the weight of the image itself.
    """
    mixed = torch.lerp(images.index_select(0, partner), images, ratio)
    return mixed, targets * ratio + targets[partner] * (1 - ratio)


def mixup_ratio(alpha: float, *, rng: np.random.Generator) -> float:
    """Draw a ratio from Beta(alpha, alpha); return 1 if alpha is 0."""
    return float(rng.beta(alpha, alpha)) if alpha > 0 else 1.0


def cutmix(images: Tensor, targets: Tensor, *, partner: Tensor, box: Box) -> Mixed:
    """Paste a box of each image's partner [N] into images [N, C, H, W] and mix target rows [N, K] by its area.

    Yun et al. 2019, eq. 1, with the area of the clipped box.
    """
    height, width = images.shape[-2:]
    area = (box.bottom - box.top) * (box.right - box.left)
    ratio = 1 - area / (height * width)
    mixed = images.clone()
    inside = (..., slice(box.top, box.bottom), slice(box.left, box.right))
    mixed[inside] = images[inside].index_select(0, partner)
    return mixed, targets * ratio + targets[partner] * (1 - ratio)


def cutmix_box(height: int, width: int, *, alpha: float, rng: np.random.Generator) -> Box:
    """Draw a box with an area of about 1 - Beta(alpha, alpha) of the image, a uniform center, clipped at the border."""
    fraction = math.sqrt(1 - rng.beta(alpha, alpha))
    half_height, half_width = int(height * fraction) // 2, int(width * fraction) // 2
    y, x = int(rng.integers(height)), int(rng.integers(width))
    return Box(
        max(y - half_height, 0), min(y + half_height, height), max(x - half_width, 0), min(x + half_width, width)
    )


def partners(num_images: int, *, rng: np.random.Generator) -> Tensor:
    """Draw a random permutation [N] of the batch: the partner of each image."""
    return torch.from_numpy(rng.permutation(num_images))


class Mix(Protocol):
    """Mix images [N, C, H, W] and target rows [N, K] with others of their batch.

    A subclass is a frozen dataclass of its settings. Unlike a transform, it is applied to the complete batch only.
    """

    stream: ClassVar[str] = "mix"

    @property
    def p(self) -> float:
        """The probability that a batch is mixed."""
        ...

    def draw(self, n: int, shape: Sequence[int], key: Key) -> tuple[Any, ...]:
        """Draw the random numbers for a batch of n images of shape (C, H, W)."""
        ...

    @property
    def apply(self) -> Callable[..., Mixed]:
        """Return mixed images and rows for drawn numbers: `apply(images, targets, *numbers)`."""
        ...

    def happens(self, key: Key) -> bool:
        """Return whether the batch of this key is mixed, with probability `p`."""
        return bool(key.rng(f"{self.stream} coin").random() < self.p)

    def __call__(self, images: Tensor, targets: Tensor, *, key: Key | None = None) -> Mixed:
        """Return images and target rows, mixed with probability `p`; without a key, a fresh one is used."""
        key = key or Key.fresh()
        if not self.happens(key):
            return images, targets
        return self.apply(images, targets, *self.draw(len(images), images.shape[1:], key))


@dataclass(frozen=True)
class MixUp(Mix):
    """Blend each image with another one, by a ratio from Beta(alpha, alpha) (Zhang et al. 2018)."""

    alpha: float = 0.2
    p: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, "alpha")
        check_range(self, "p", high=1)

    def draw(self, n: int, shape: Sequence[int], key: Key) -> tuple[Tensor, float]:
        rng = key.rng(self.stream)
        return partners(n, rng=rng), mixup_ratio(self.alpha, rng=rng)

    def apply(self, images: Tensor, targets: Tensor, partner: Tensor, ratio: float) -> Mixed:
        return mixup(images, targets, partner=partner.to(images.device, non_blocking=True), ratio=ratio)


@dataclass(frozen=True)
class CutMix(Mix):
    """Paste a box of another image into each one, of about 1 - Beta(alpha, alpha) of its area (Yun et al. 2019)."""

    alpha: float = 1.0
    p: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, "alpha", low=sys.float_info.min)
        check_range(self, "p", high=1)

    def draw(self, n: int, shape: Sequence[int], key: Key) -> tuple[Tensor, Box]:
        rng = key.rng(self.stream)
        height, width = shape[-2:]
        return partners(n, rng=rng), cutmix_box(height, width, alpha=self.alpha, rng=rng)

    def apply(self, images: Tensor, targets: Tensor, partner: Tensor, box: Box) -> Mixed:
        return cutmix(images, targets, partner=partner.to(images.device, non_blocking=True), box=box)


MIXES: dict[str, Callable[..., Mix]] = {"mixup": MixUp, "cutmix": CutMix}
"""The mixes by the words of the configuration."""
