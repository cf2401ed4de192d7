"""Pixels and targets of a soft crop, worked out pixel by pixel."""

import torch
from torch import Tensor

from agmax.core.batch import Batch, RawBatch
from helpers.augment import raw_batch


def on_a_canvas(image: Tensor, down: int, right: int, color: Tensor) -> Tensor:
    """Paste an image into the middle of a canvas of three times its sides, and crop at the offset."""
    _, height, width = image.shape
    canvas = color[:, None, None].expand(-1, 3 * height, 3 * width).clone()
    canvas[:, height : 2 * height, width : 2 * width] = image
    return canvas[:, height + down : 2 * height + down, width + right : 2 * width + right]


def white(count: int, size: int = 32) -> RawBatch:
    return raw_batch(count)._replace(images=torch.full((count, 3, size, size), 255, dtype=torch.uint8))


def visible_pixels(batch: Batch) -> Tensor:
    """Return the fraction [N, V] of pixels that are not background, which is 0 if its std is 0."""
    return (batch.images != 0).all(dim=2).float().mean(dim=(-2, -1))


def expected_rows(labels: Tensor, confidence: Tensor, num_classes: int = 10) -> Tensor:
    """Write the rows [N, V, K] by loops: the confidence [N, V] for the class, the rest for the others."""
    rows = torch.empty(*confidence.shape, num_classes)
    for place, label in enumerate(labels.tolist()):
        for view in range(confidence.shape[1]):
            certain = float(confidence[place, view])
            rows[place, view] = (1 - certain) / (num_classes - 1)
            rows[place, view, label] = certain
    return rows
