"""Apply to every image of a batch an operation and a value of its own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agmax.augment import color, geometry

Codes = NDArray[np.int64]
Values = NDArray[np.floating[Any]]

OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Identity": lambda images, _: images,
    "ShearX": geometry.shear_x,
    "ShearY": geometry.shear_y,
    "TranslateX": geometry.translate_x,
    "TranslateY": geometry.translate_y,
    "Rotate": geometry.rotate,
    "Brightness": color.brightness,
    "Color": color.saturation,
    "Contrast": color.contrast,
    "Sharpness": color.sharpness,
    "Posterize": color.posterize,
    "Solarize": color.solarize,
    "AutoContrast": lambda images, _: color.auto_contrast(images),
    "Equalize": lambda images, _: color.equalize(images),
    "Invert": lambda images, _: color.invert(images),
}
"""The operations of all policies: each takes uint8 images [B, C, H, W] and values [B], and returns new images.

What a value means is the operation's: pixels per row or column (ShearX, ShearY), whole pixels (TranslateX, TranslateY),
degrees (Rotate), a factor (Brightness, Color, Contrast, Sharpness), bits (Posterize), a level (Solarize).
"""

NAMES = tuple(OPERATIONS)

CODES = {name: code for code, name in enumerate(NAMES)}
"""The operations' numbers, by which a policy names them."""


def apply_operations(images: Tensor, codes: Codes, values: Values) -> Tensor:
    """Apply to each of the uint8 images [B, C, H, W] the operation `codes` [B] with its value [B].

    Raises:
        TypeError: the images are not uint8.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"operations of a policy take uint8 images [B, C, H, W], not {images.dtype}")
    order = np.argsort(codes, kind="stable")  # images of one operation stand side by side
    on_device = _apply_one(images, values)
    done = []
    for code in np.unique(codes):
        first, last = np.searchsorted(codes[order], (code, code + 1))
        chosen = _apply_one(images, order[first:last])
        done.append(OPERATIONS[NAMES[code]](images.index_select(0, chosen), on_device[chosen]))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return torch.cat(done).index_select(0, _apply_one(images, place))


def _apply_one(images: Tensor, numbers: NDArray[Any]) -> Tensor:
    return torch.from_numpy(numbers).to(images.device, non_blocking=True)
