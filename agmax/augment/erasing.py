"""Erase a box of each normalized image; its fill value 0 is the mean color of the data set."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Boxes(NamedTuple):
    """One box for each image, [B] each: rows top to bottom - 1, columns left to right - 1; it may exceed the image."""

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
    """Return the visible fraction [B] of each image's area beside its box, which is clipped to the image.

    A box of 16x16 centered on a corner of a 32x32 image: 1 - 8 * 8 / 1024 = 0.9375.
    """
    tall = boxes.bottom.clamp(max=height) - boxes.top.clamp(min=0)
    wide = boxes.right.clamp(max=width) - boxes.left.clamp(min=0)
    return 1 - (tall.clamp(min=0) * wide.clamp(min=0)).float() / (height * width)


def cutout_boxes(num_images: int, height: int, width: int, *, length: int, rng: np.random.Generator) -> Boxes:
    """Draw squares with centers uniform over the image (DeVries and Taylor 2017).

    A square covers the rows from center - length // 2 to center + length // 2 - 1, and the columns alike.
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
    """Draw boxes inside the image (Zhong et al. 2020, algorithm 1), empty ones for images that are not erased.

    The area is uniform in `scale`, as a fraction of the image's area, and height over width is log-uniform in `ratio`.
    The first of ten such shapes that fits is taken, as in torchvision; if none fits, nothing is erased.
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
