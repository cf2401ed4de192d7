"""Crops and flips of batches against plain loops over single images."""

import numpy as np
import pytest
import torch

from agmax.augment import geometry
from helpers.augment import random_images


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 9, 12), (1, 8, 8)])
def test_crop_equals_slicing_each_padded_image(channels: int, height: int, width: int) -> None:
    images = random_images(20, channels, height, width)
    top, left = geometry.crop_offsets(20, padding=3, rng=np.random.default_rng(1))
    cropped = geometry.crop(images, top, left, padding=3)
    for image, y, x, result in zip(images, top.tolist(), left.tolist(), cropped, strict=True):
        bordered = torch.zeros(channels, height + 6, width + 6, dtype=torch.uint8)
        bordered[:, 3:-3, 3:-3] = image
        assert torch.equal(result, bordered[:, y : y + height, x : x + width])


@pytest.mark.parametrize("padding", [0, 2])
def test_crop_takes_images_of_any_memory_layout(padding: int) -> None:
    images = random_images(20, 3, 9, 12)
    top, left = geometry.crop_offsets(20, padding=padding, rng=np.random.default_rng(1))
    expected = geometry.crop(images, top, left, padding=padding)
    layouts = {
        "channels last": images.to(memory_format=torch.channels_last),
        "every second": torch.stack([images.flip(0), images], dim=1)[:, 1],
        "behind others": torch.cat([images[:2].flip(0), images])[2:],
        "a crop of larger ones": torch.nn.functional.pad(images, (2, 3, 4, 1))[..., 4:-1, 2:-3],
    }
    for name, laid in layouts.items():
        assert torch.equal(laid, images)
        assert torch.equal(geometry.crop(laid, top, left, padding=padding), expected), name


def test_crop_corners_are_uniform_and_reach_both_ends() -> None:
    top, left = geometry.crop_offsets(90_000, padding=4, rng=np.random.default_rng(0))
    for corners in (top, left):
        counts = torch.bincount(corners, minlength=9)
        assert len(counts) == 9
        assert (counts - 10_000).abs().max() < 5 * 100  # five standard deviations


def test_flip_changes_only_the_chosen_images() -> None:
    images = random_images(6, 3, 5, 7)
    chosen = torch.tensor([True, False, True, True, False, False])
    for image, mirrored, result in zip(images, chosen, geometry.flip(images, chosen), strict=True):
        for x in range(7):
            assert torch.equal(result[:, :, x], image[:, :, 6 - x if mirrored else x])
