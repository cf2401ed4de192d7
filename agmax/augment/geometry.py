"""Move images: crop and flip whole uint8 batches, each image by its own numbers."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def crop(images: Tensor, top: Tensor, left: Tensor, *, padding: int) -> Tensor:
    """Cut a window of the images' own size out of each image [B, C, H, W] with a black border of `padding` pixels.

    `top` and `left` [B] are the window's corner in the bordered image, from 0 to 2 * padding.
    """
    height, width = images.shape[-2:]
    bordered = functional.pad(images, (padding, padding, padding, padding))
    windows = bordered.unfold(2, height, 1).unfold(3, width, 1)  # [B, C, 2p + 1, 2p + 1, H, W], a view
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def crop_corners(num_images: int, *, padding: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw the corners [B], [B] for `crop`, uniform over all positions."""
    corners = torch.from_numpy(rng.integers(0, 2 * padding + 1, size=(2, num_images)))
    return corners[0], corners[1]


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen [B] (bool) of the images [B, C, H, W], left to right."""
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def coins(num_images: int, *, rng: np.random.Generator) -> Tensor:
    """Toss a fair coin for each image: bool [B]."""
    return torch.from_numpy(rng.random(num_images) < 0.5)
