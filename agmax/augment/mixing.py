"""Mix each image and its target row with another image of the batch."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Mixed = tuple[Tensor, Tensor]


class Box(NamedTuple):
    """A rectangle of pixels: rows top to bottom - 1, columns left to right - 1."""

    top: int
    bottom: int
    left: int
    right: int


def mixup(images: Tensor, targets: Tensor, *, partner: Tensor, ratio: float) -> Mixed:
    """Blend images [N, C, H, W] and target rows [N, K] with their partners' [N] (Zhang et al. 2018, eq. 1).

    `ratio` is the share of the image itself.
    """
    mixed = torch.lerp(images.index_select(0, partner), images, ratio)
    return mixed, targets * ratio + targets[partner] * (1 - ratio)


def mixup_ratio(alpha: float, *, rng: np.random.Generator) -> float:
    """Draw a ratio from Beta(alpha, alpha); 1 where alpha is 0."""
    return float(rng.beta(alpha, alpha)) if alpha > 0 else 1.0


def cutmix(images: Tensor, targets: Tensor, *, partner: Tensor, box: Box) -> Mixed:
    """Paste the box of each image's partner [N] over images [N, C, H, W] and mix target rows [N, K] by area.

    Yun et al. 2019, eq. 1, with the ratio of the clipped box.
    """
    height, width = images.shape[-2:]
    area = (box.bottom - box.top) * (box.right - box.left)
    ratio = 1 - area / (height * width)
    mixed = images.clone()
    inside = (..., slice(box.top, box.bottom), slice(box.left, box.right))
    mixed[inside] = images[inside].index_select(0, partner)
    return mixed, targets * ratio + targets[partner] * (1 - ratio)


def cutmix_box(height: int, width: int, *, beta: float, rng: np.random.Generator) -> Box:
    """Draw a box whose area is about 1 - Beta(beta, beta) of the image, centre uniform, clipped at the border."""
    share = math.sqrt(1 - rng.beta(beta, beta))
    half_height, half_width = int(height * share) // 2, int(width * share) // 2
    y, x = int(rng.integers(height)), int(rng.integers(width))
    return Box(
        max(y - half_height, 0), min(y + half_height, height), max(x - half_width, 0), min(x + half_width, width)
    )


def partners(num_images: int, *, rng: np.random.Generator) -> Tensor:
    """Draw a random permutation [N] of the batch."""
    return torch.from_numpy(rng.permutation(num_images))
