"""The random offsets of soft crop (`geometry.shifted_crop`), its background and the visible fraction."""

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor


def soft_crop_offsets(
    num_images: int, height: int, width: int, *, sigma: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw the offsets (down, right) [B] of the crop in pixels, from a normal distribution truncated at the side.

    `sigma` is a fraction of the side; with 0 every offset is 0. The offsets are rounded towards zero, so that 0 is
    twice as frequent as 1, as in the released recipe (Liu et al. 2023).
    """
    offsets = []
    for side in (height, width):
        uniform = rng.random(num_images)
        if sigma == 0:
            offsets.append(torch.zeros(num_images, dtype=torch.int64))
            continue
        lowest = ndtr(-1 / sigma)
        numbers = sigma * side * ndtri(lowest + uniform * (1 - 2 * lowest))  # the inverse of the distribution function
        offsets.append(torch.from_numpy(np.trunc(numbers).astype(np.int64)))
    return offsets[0], offsets[1]


def backgrounds(num_images: int, num_channels: int, *, std: float, rng: np.random.Generator) -> Tensor:
    """Draw a background color [B, C] for each image from N(0, std), on the scale of normalized images."""
    return torch.from_numpy(rng.normal(0, std, size=(num_images, num_channels)))


def visible_fraction(down: Tensor, right: Tensor, *, height: int, width: int) -> Tensor:
    """Return the visible fraction [B] of each image's area in a crop with offsets (down, right).

    Offsets of 5 pixels down and 11 left in a 32x32 image: 27 * 21 / 1024 = 0.5537.
    """
    visible = (height - down.abs()).clamp(min=0) * (width - right.abs()).clamp(min=0)
    return visible.float() / (height * width)
