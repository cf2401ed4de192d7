"""Hide a part of each image, after normalising, so that the filling 0 is the data set's mean colour."""

import numpy as np
import torch
from torch import Tensor


def cutout(images: Tensor, rows: Tensor, columns: Tensor, *, length: int) -> Tensor:
    """Fill a square of each image [B, C, H, W] with 0 (DeVries and Taylor 2017).

    The square has the centre (rows [B], columns [B]), reaches length // 2 pixels up and left and as many down and
    right less one, and is clipped at the border.
    """
    half = length // 2
    height, width = images.shape[-2:]
    y = torch.arange(height, device=images.device) - rows[:, None]  # [B, H], distance from the centre
    x = torch.arange(width, device=images.device) - columns[:, None]
    hidden = ((y >= -half) & (y < half))[:, None, :, None] & ((x >= -half) & (x < half))[:, None, None, :]
    return images.masked_fill(hidden, 0)


def cutout_centres(num_images: int, height: int, width: int, *, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw the centres [B], [B] for `cutout`, uniform over the image."""
    rows, columns = rng.integers(0, height, num_images), rng.integers(0, width, num_images)
    return torch.from_numpy(rows), torch.from_numpy(columns)
