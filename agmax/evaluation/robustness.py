"""Accuracy on partly visible images: with an occluded square, and on off-center crops."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agmax.augment.erasing import Boxes, erase_
from agmax.augment.geometry import shifted_crop
from agmax.augment.soft_crop import visible_fraction
from agmax.core.batch import RawBatch
from agmax.core.rng import generator
from agmax.data.loader import Loader
from agmax.evaluation.predict import ImageTransform, forward_batches

OCCLUDED_FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Sizes of the occluded square, as fractions of the image's area."""

OFFSETS = (-0.75, -0.5625, -0.375, -0.1875, 0.0, 0.1875, 0.375, 0.5625, 0.75)
"""Offsets of the crop along each axis, as fractions of the image's side."""

Table = dict[str, Any]


def occlusion(model: nn.Module, data: Loader, *, image_size: int, **options: Any) -> Table:
    """Measure the accuracy with a square of each image occluded, for squares of growing size.

    The square is filled with the mean color. Its place is drawn for each image from the image's position in the split,
    so that it is the same for every model and every size. `options` are the keyword arguments of `forward_batches`.

    Return `num_images` and, for each size, the occluded `fraction`, `top1` in percent and `nll` in nats.
    """
    sides = [round(math.sqrt(fraction) * image_size) for fraction in OCCLUDED_FRACTIONS]
    places = torch.from_numpy(generator("occlusion").random((len(data), 2)))  # [N, 2]: top and left, from 0 to 1
    top1, nll = _accuracy(model, data, [_occlude(side, places) for side in sides], **options)
    fractions = [side**2 / image_size**2 for side in sides]
    return {"num_images": len(data), "fraction": fractions, "top1": top1, "nll": nll}


def offsets(model: nn.Module, data: Loader, *, image_size: int, **options: Any) -> Table:
    """Measure the accuracy on off-center crops, which are shifted down and right on a background of the mean color.

    `options` are the keyword arguments of `forward_batches`.

    Return `num_images`; the offsets as `pixels`; for each offset down (rows) and right (columns), the `visible`
    fraction, `top1` in percent and `nll` in nats; and `along_axes`, the mean top1 of the four crops that are shifted
    by each distance along one axis.
    """
    pixels = [round(fraction * image_size) for fraction in OFFSETS]
    pairs = [(down, right) for down in pixels for right in pixels]
    top1, nll = _accuracy(model, data, [_shift(*pair) for pair in pairs], **options)
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
"""The measurements, by the setting of the section `evaluation` that turns them on."""


def _occlude(side: int, places: Tensor) -> ImageTransform:
    def transform(images: Tensor, positions: Tensor) -> Tensor:
        num_places = torch.tensor([length - side + 1 for length in images.shape[-2:]])
        top, left = (places[positions] * num_places).long().to(images.device).T
        return erase_(images.clone(), Boxes(top, top + side, left, left + side))

    return transform


def _shift(down: int, right: int) -> ImageTransform:
    def transform(images: Tensor, positions: Tensor) -> Tensor:
        y, x = (torch.full((len(images),), offset, device=images.device) for offset in (down, right))
        return shifted_crop(images, y, x, background=images.new_zeros(images.shape[:2]))

    return transform


def _accuracy(
    model: nn.Module, data: Loader, transforms: Sequence[ImageTransform], *, device: torch.device, **options: Any
) -> tuple[list[float], list[float]]:
    """Return top1 in percent and nll in nats for each transform."""
    sums = torch.zeros(2, len(transforms), dtype=torch.float64, device=device)

    def add(index: int, logits: Tensor, raw: RawBatch) -> None:
        labels = raw.labels.to(device)
        sums[0, index] += (logits.argmax(-1) == labels).sum()
        sums[1, index] += nn.functional.cross_entropy(logits.double(), labels, reduction="sum")

    forward_batches(model, data, add, transforms=transforms, device=device, **options)
    num_correct, nll = sums.tolist()
    return [100 * number / len(data) for number in num_correct], [total / len(data) for total in nll]
