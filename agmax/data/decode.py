"""Decode image files to RGB or gray and upright, and crop them."""

import errno
import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2 import functional

from agmax.core import memory
from agmax.core.errors import DataError, ResourceError

Box = tuple[int, int, int, int]
"""Left, upper, right and lower edge, in pixels."""

NO_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)
"""Exceptions of Pillow, with a readable text, for a file that is not an image, damaged or far too large."""

RESIZE_MARGIN = 32
"""Pixels that the shorter side is larger than the center crop (the AgMax program's test transform)."""

ORIENTATION_TAG = 0x0112

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The inverse of each value of EXIF's tag Orientation; ImageOps.exif_transpose fails if another tag is damaged."""

TRANSPOSING = tuple(UPRIGHT[orientation] for orientation in (5, 6, 7, 8))
"""Those that exchange width and height."""


class UnreadableError(DataError):
    """A file that cannot be decoded to an 8-bit image."""


def decode_image(path: str, channels: int, *, exif_rotation: bool = True) -> Image.Image:
    """Decode a file to RGB (3 channels) or gray (1), 8 bits each.

    With `exif_rotation` a photograph is turned upright by its EXIF tag.

    Raises:
        UnreadableError: the file is not an image, is damaged, or has more pixels than Pillow's Image.MAX_IMAGE_PIXELS.
    """
    with open_image(path) as image:
        return convert_channels(image, channels, exif_rotation=exif_rotation)


def decode_pixels(path: str, channels: int, *, exif_rotation: bool = True, shrink: int = 1) -> Tensor:
    """Decode a file as `decode_image` does, to uint8 [C, H, W]; a JPEG's sides are divided by `shrink` (1, 2, 4 or 8).

    A JPEG file without rotation and shrinking is decoded by torchvision directly into a tensor: the pixels are equal,
    and it takes a quarter less time.

    Raises:
        UnreadableError: as for `decode_image`.
    """
    with open_image(path) as image:
        is_plain = image.format == "JPEG" and image.mode in (("RGB", "L") if channels == 3 else ("L",))
        if is_plain and shrink == 1 and not (exif_rotation and _orientation(image) in UPRIGHT):
            mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
            try:
                plain: Tensor = decode_jpeg(read_file(path), mode=mode)
                return plain
            except (RuntimeError, AttributeError) as error:  # Pillow decides what is damaged; some versions lack it
                if memory.is_full(error):
                    raise
        if shrink > 1:
            image.draft(None, (image.width // shrink, image.height // shrink))  # rounded up
        pixels: Tensor = functional.pil_to_tensor(convert_channels(image, channels, exif_rotation=exif_rotation))
        return pixels


def shrinkable_size(path: str, *, exif_rotation: bool = True) -> tuple[int, int] | None:
    """Return the width and height of a JPEG file from its header; None if it cannot be shrunk while decoding.

    None is returned for other formats, and for a photograph that is to be turned and has a side that 8 does not
    divide: the decoder rounds up at the right and lower edges, which are elsewhere after turning.

    Raises:
        UnreadableError: as for `decode_image`.
    """
    with open_image(path) as image:
        if image.format not in ("JPEG", "MPO"):
            return None
        turn = UPRIGHT.get(_orientation(image)) if exif_rotation else None
        if turn is not None and (image.width % 8 or image.height % 8):
            return None
        return image.size[::-1] if turn in TRANSPOSING else image.size


def max_shrink(boxes: list[Box], size: int) -> int:
    """Return the largest divisor of a JPEG's sides, of 1, 2, 4 and 8, with which all boxes keep `size` pixels."""
    shortest = min(min(right - left, lower - upper) for left, upper, right, lower in boxes)
    return next((shrink for shrink in (8, 4, 2) if shortest >= shrink * size), 1)


def resized_crop(pixels: Tensor, box: Box, size: int) -> Tensor:
    """Crop `box` from pixels uint8 [C, H, W] and resize it to [C, size, size], bilinear with antialiasing.

    This is torchvision's kernel for tensors: it differs from Pillow's by one gray level in some pixels and takes half
    the time.
    """
    left, upper, right, lower = box
    square: Tensor = functional.resized_crop(
        pixels, upper, left, lower - upper, right - left, [size, size], antialias=True
    )
    return square


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to size + 32 and crop the center, as torchvision does with Pillow, bilinear.

    Rows are resized first in all versions of Pillow: 13 begins with the columns of a tall image, which changes some
    pixels by one gray level. Columns outside of the center are dropped between the passes, which saves a third of the
    second one.

    Raises:
        ValueError: the image is so narrow that its longer side would become too long.
    """
    shorter, longer = sorted(image.size)
    resized_shorter, resized_longer = size + RESIZE_MARGIN, (size + RESIZE_MARGIN) * longer // shorter
    if resized_shorter**2 * longer > (Image.MAX_IMAGE_PIXELS or math.inf) * shorter:
        raise ValueError(f"it is too narrow: {image.width} by {image.height} pixels")
    is_tall = image.height > image.width
    width, height = (resized_shorter, resized_longer) if is_tall else (resized_longer, resized_shorter)
    left, upper = round((width - size) / 2), round((height - size) / 2)
    resized_rows = image.resize((width, image.height), Image.Resampling.BILINEAR)
    strip = resized_rows.crop((left, 0, left + size, image.height))
    return strip.resize((size, height), Image.Resampling.BILINEAR).crop((0, upper, size, upper + size))


def to_tensor(image: Image.Image) -> Tensor:
    """Return the pixels of an RGB or gray image, uint8 [C, H, W]; torchvision's pil_to_tensor takes twice the time."""
    values = np.asarray(image)
    return torch.from_numpy((values[None] if values.ndim == 2 else values.transpose(2, 0, 1)).copy())


@contextmanager
def open_image(path: str) -> Iterator[Image.Image]:
    """Open an image file without decoding its pixels; errors in the block name the file.

    Raises:
        UnreadableError: the file is not an image, is damaged, or cannot be converted.
        ResourceError: too many files are open.
        MemoryError: the memory is full.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for its writer
            raise ValueError("it is not a regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for instance of damaged EXIF data: the pixels are intact
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except Exception as error:
        if memory.is_full(error):
            raise MemoryError(memory.reason(error)) from error
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            remedy = "Raise the limit (ulimit -n) or lower train.num_workers"
            raise ResourceError("too many open files", where=path, why=str(error.strerror), remedy=remedy) from None
        why = f"decode raised {type(error).__name__}: {error}"
        if isinstance(error, UnidentifiedImageError):
            why = "Pillow does not know its format"
        elif isinstance(error, NO_IMAGE):
            why = getattr(error, "strerror", None) or str(error) or why
        raise UnreadableError("image cannot be read", where=path, why=why) from None


def convert_channels(image: Image.Image, channels: int, *, exif_rotation: bool = True) -> Image.Image:
    """Decode an opened image and return it as RGB (3 channels) or gray (1), and upright with `exif_rotation`."""
    image.load()  # a PNG's EXIF data may follow its pixels
    turn = UPRIGHT.get(_orientation(image)) if exif_rotation else None
    colored = _to_8_bits(image, channels)
    return colored if turn is None else colored.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return the value of the EXIF tag; 1, upright, if it is missing or cannot be read."""
    try:
        value = image.getexif().get(ORIENTATION_TAG)
    except Exception as error:  # damaged EXIF data raise almost any error, and the pixels may be intact
        if memory.is_full(error):
            raise
        return 1
    return value if isinstance(value, int) else 1


def _to_8_bits(image: Image.Image, channels: int) -> Image.Image:
    """Convert an image to 8-bit RGB or gray; 16-bit values are divided by 257, and transparency is dropped."""
    mode = "RGB" if channels == 3 else "L"
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int32)  # [H, W]
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels have more than 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)
