"""Hide a part of each image, after normalising, so that the filling 0 is the data set's mean colour."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Boxes(NamedTuple):
    """A rectangle in each image, [B] each: rows top to bottom - 1, columns left to right - 1; it may stick out."""

    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor


def erase_(images: Tensor, boxes: Boxes) -> Tensor:
    """Fill a box of each image [B, C, H, W] with 0, in place, and return the images."""
    height, width = images.shape[-2:]
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    rows = (y >= boxes.top[:, None]) & (y < boxes.bottom[:, None])  # [B, H]
    columns = (x >= boxes.left[:, None]) & (x < boxes.right[:, None])
    return images.masked_fill_(rows[:, None, :, None] & columns[:, None, None, :], 0)


def visible_fraction(boxes: Boxes, *, height: int, width: int) -> Tensor:
    """Return the share [B] of each image's area that the boxes leave; what sticks out hides nothing.

    A box of 16x16 in a corner, half of each side outside of 32x32: 1 - 8 * 8 / 1024 = 0.9375.
    """
    tall = boxes.bottom.clamp(max=height) - boxes.top.clamp(min=0)
    wide = boxes.right.clamp(max=width) - boxes.left.clamp(min=0)
    return 1 - (tall.clamp(min=0) * wide.clamp(min=0)).float() / (height * width)


def cutout_boxes(num_images: int, height: int, width: int, *, length: int, rng: np.random.Generator) -> Boxes:
    """Draw squares whose centres are uniform over the image (DeVries and Taylor 2017).

    A square reaches length // 2 pixels up and left of its centre, and as many less one down and right.
    """
    half = length // 2
    rows, columns = rng.integers(0, height, num_images), rng.integers(0, width, num_images)
    return _boxes(rows - half, rows + half, columns - half, columns + half)


def random_erasing_boxes(
    num_images: int,
    height: int,
    width: int,
    *,
    p: float,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Boxes:
    """Draw boxes that lie inside the image (Zhong et al. 2020, algorithm 1); images that keep all have an empty one.

    The area is uniform in `scale`, as a share of the image, and height over width log-uniform in `ratio`. Of ten such
    shapes the first that fits is taken, as torchvision does; where none fits, nothing is erased.
    """
    shape = (num_images, 10)
    area = height * width * rng.uniform(*scale, size=shape)
    stretch = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]), size=shape))
    tall = np.round(np.sqrt(area * stretch)).astype(np.int64)
    wide = np.round(np.sqrt(area / stretch)).astype(np.int64)
    fits = (tall < height) & (wide < width)
    first = fits.argmax(1)[:, None]
    happens = (rng.random(num_images) < p) & fits.any(1)
    tall, wide = (np.where(happens, np.take_along_axis(side, first, 1)[:, 0], 0) for side in (tall, wide))
    top = rng.integers(0, height - tall + 1)
    left = rng.integers(0, width - wide + 1)
    return _boxes(top, top + tall, left, left + wide)


def _boxes(*edges: NDArray[np.int64]) -> Boxes:
    return Boxes(*(torch.from_numpy(edge) for edge in edges))
