"""How a model's accuracy falls as less of the images is visible: occluded squares, windows far aside."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agmax.augment.erasing import Boxes, erase_
from agmax.augment.geometry import shifted_crop
from agmax.augment.soft_crop import visible_fraction
from agmax.core.rng import generator
from agmax.data.loader import Loader
from agmax.evaluation.predict import ImageTransform, forward_batches

OCCLUDED_FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the image's area that a square hides."""

OFFSETS = (-0.75, -0.5625, -0.375, -0.1875, 0.0, 0.1875, 0.375, 0.5625, 0.75)
"""How far a window is moved each way, as shares of the side."""

Table = dict[str, Any]


def occlusion(model: nn.Module, data: Loader, *, image_size: int, **how: Any) -> Table:
    """Measure the accuracy with a square of each image hidden, for growing squares.

    Its place is drawn for each image, by the image's position among those that are measured, so that every model and
    every size meets the same; it is filled with the mean colour. `how` is `evaluate.classify`'s. Return `num_images`
    and, for each size, the `share` hidden, `top1` in percent and `nll` in nats.
    """
    sides = [round(math.sqrt(fraction) * image_size) for fraction in OCCLUDED_FRACTIONS]
    places = torch.from_numpy(generator("occlusion").random((len(data), 2)))
    top1, nll = _accuracy_under(model, data, [_occlude(side, places) for side in sides], **how)
    fractions = [side**2 / image_size**2 for side in sides]
    return {"num_images": len(data), "fraction": fractions, "top1": top1, "nll": nll}


def offsets(model: nn.Module, data: Loader, *, image_size: int, **how: Any) -> Table:
    """Measure the accuracy with every image seen through a window moved down and right, on mean colour.

    `how` is `evaluate.classify`'s. Return `num_images`, the offsets either way as `pixels`, over (down, right) rows of
    `visible` shares, of `top1` in percent and of `nll` in nats, and `along_axes`: for each distance straight up, down,
    left and right, the mean top1.
    """
    pixels = [round(fraction * image_size) for fraction in OFFSETS]
    pairs = [(down, right) for down in pixels for right in pixels]
    top1, nll = _accuracy_under(model, data, [_shift(*pair) for pair in pairs], **how)
    down, right = torch.tensor(pairs).T
    visible = visible_fraction(down, right, height=image_size, width=image_size).tolist()
    rows = {"visible": visible, "top1": top1, "nll": nll}
    straight: dict[int, list[float]] = {}
    for (y, x), value in zip(pairs, top1, strict=True):
        if y == 0 or x == 0:
            straight.setdefault(max(abs(y), abs(x)), []).append(value)
    along_axes = {
        "pixels": sorted(straight),
        "top1": [sum(straight[distance]) / len(straight[distance]) for distance in sorted(straight)],
    }
    count = len(pixels)
    return {"num_images": len(data), "pixels": pixels, "along_axes": along_axes} | {
        name: [values[first : first + count] for first in range(0, count**2, count)] for name, values in rows.items()
    }


MEASURES = {"occlusion": occlusion, "offsets": offsets}
"""By the setting that asks for them."""


def _occlude(side: int, places: Tensor) -> ImageTransform:
    def change(images: Tensor, at: Tensor) -> Tensor:
        room = torch.tensor([length - side + 1 for length in images.shape[-2:]])
        top, left = (places[at] * room).long().to(images.device).T
        return erase_(images.clone(), Boxes(top, top + side, left, left + side))

    return change


def _shift(down: int, right: int) -> ImageTransform:
    def change(images: Tensor, at: Tensor) -> Tensor:
        y, x = (torch.full((len(images),), offset, device=images.device) for offset in (down, right))
        return shifted_crop(images, y, x, background=images.new_zeros(images.shape[:2]))

    return change


def _accuracy_under(
    model: nn.Module, data: Loader, changes: Sequence[ImageTransform], *, device: torch.device, **how: Any
) -> tuple[list[float], list[float]]:
    """Return top1 in percent and nll in nats under each change."""
    sums = torch.zeros(2, len(changes), dtype=torch.float64, device=device)

    def add(number: int, logits: Tensor, sample: Any) -> None:
        labels = sample.labels.to(device)
        sums[0, number] += (logits.argmax(-1) == labels).sum()
        sums[1, number] += nn.functional.cross_entropy(logits.double(), labels, reduction="sum")

    forward_batches(model, data, add, changes=changes, device=device, **how)
    right, nll = sums.tolist()
    return [100 * number / len(data) for number in right], [total / len(data) for total in nll]
