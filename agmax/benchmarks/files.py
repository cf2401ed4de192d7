"""Create reproducible test images that resemble photographs."""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

NUM_DIFFERENT = 64
"""Largest number of different images among the files."""


@contextmanager
def jpeg_files(count: int) -> Iterator[list[Path]]:
    """Write images of 500x375 pixels as JPEG files (quality 90) to a temporary folder, and yield their paths.

    The images repeat after `NUM_DIFFERENT`.
    """
    images = [
        Image.fromarray(image.permute(1, 2, 0).numpy()) for image in photographs(min(count, NUM_DIFFERENT), 375, 500)
    ]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number:05d}.jpg" for number in range(count)]
        for path, image in zip(paths, itertools.cycle(images), strict=False):
            image.save(path, "JPEG", quality=90)
        yield paths


def photographs(count: int, height: int, width: int) -> Tensor:
    """Return color images uint8 [count, 3, height, width] with the spectrum of photographs, and some noise."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width)
    noise = rng.normal(size=(count, 3, *frequency.shape)) + 1j * rng.normal(size=(count, 3, *frequency.shape))
    smooth = np.fft.irfft2(noise / (frequency + 1.0) ** 1.25, s=(height, width))
    smooth /= smooth.std(axis=(2, 3), keepdims=True)
    levels = 128 + 50 * smooth + rng.normal(0, 3, smooth.shape)
    return torch.from_numpy(levels.clip(0, 255).astype(np.uint8))
