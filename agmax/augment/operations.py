"""Apply a separate operation and value to each image of a batch."""

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

The units of the values: pixels per row or column (ShearX, ShearY), integer pixels (TranslateX, TranslateY), degrees
(Rotate), a factor (Brightness, Color, Contrast, Sharpness), bits (Posterize), a level (Solarize).
"""

NAMES = tuple(OPERATIONS)

CODES = {name: code for code, name in enumerate(NAMES)}
"""The number of each operation, used by the policies."""


def apply_operations(images: Tensor, codes: Codes, values: Values) -> Tensor:
    """Apply to each of the uint8 images [B, C, H, W] its operation, of `codes` [B], with its value [B].

    Raises:
        TypeError: the images are not uint8.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"the operations of a policy take uint8 images [B, C, H, W], not {images.dtype}")
    order = np.argsort(codes, kind="stable")  # groups the images by their operation
    values_on_device = _to_device_of(images, values)
    parts = []
    for code in np.unique(codes):
        first, last = np.searchsorted(codes[order], (code, code + 1))
        chosen = _to_device_of(images, order[first:last])
        parts.append(OPERATIONS[NAMES[code]](images.index_select(0, chosen), values_on_device[chosen]))
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return torch.cat(parts).index_select(0, _to_device_of(images, inverse))


def _to_device_of(images: Tensor, numbers: NDArray[Any]) -> Tensor:
    return torch.from_numpy(numbers).to(images.device, non_blocking=True)
