"""How far the soft crop moves its window (`geometry.window`), and how much of the image the window still shows."""

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor


def soft_crop_offsets(
    num_images: int, height: int, width: int, *, sigma: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw the offsets (down, right) [B] of the window, from a normal distribution cut off at the image's side.

    `sigma` is a share of the side. Numbers are truncated towards zero, so that 0 is twice as frequent as 1, as in the
    released recipe (Liu et al. 2023). Drawn by inverting the distribution function; with sigma 0 every offset is 0.
    """
    offsets = []
    for side in (height, width):
        fraction = rng.random(num_images)
        if sigma == 0:
            offsets.append(torch.zeros(num_images, dtype=torch.int64))
            continue
        lowest = ndtr(-1 / sigma)
        numbers = sigma * side * ndtri(lowest + fraction * (1 - 2 * lowest))
        offsets.append(torch.from_numpy(np.trunc(numbers).astype(np.int64)))
    return offsets[0], offsets[1]


def backgrounds(num_images: int, num_channels: int, *, std: float, rng: np.random.Generator) -> Tensor:
    """Draw a background colour [B, C] for each image from N(0, std), in units of the normalised image."""
    return torch.from_numpy(rng.normal(0, std, size=(num_images, num_channels)))


def visible_fraction(down: Tensor, right: Tensor, *, height: int, width: int) -> Tensor:
    """Return the share [B] of the image's area that a window moved by (down, right) still shows.

    5 pixels down and 11 left of 32x32: 27 * 21 / 1024 = 0.5537.
    """
    visible = (height - down.abs()).clamp(min=0) * (width - right.abs()).clamp(min=0)
    return visible.float() / (height * width)
