"""Mixup and CutMix against plain loops over pairs of images."""

import numpy as np
import pytest
import torch

from agmax.augment import mixing


def test_mixup_blends_pixels_and_rows_with_the_same_ratio() -> None:
    images, rows = torch.randn(5, 3, 4, 4), torch.eye(5)
    partner = torch.tensor([2, 0, 1, 4, 3])
    mixed, targets = mixing.mixup(images, rows, partner=partner, ratio=0.3)
    for index in range(5):
        torch.testing.assert_close(mixed[index], 0.3 * images[index] + 0.7 * images[partner[index]])
        assert targets[index, index] == pytest.approx(0.3)
        assert targets[index, partner[index]] == pytest.approx(0.7)


def test_cutmix_pastes_the_box_and_mixes_rows_by_its_area() -> None:
    images, rows = torch.randn(4, 3, 8, 8), torch.eye(4)
    partner = torch.tensor([1, 2, 3, 0])
    mixed, targets = mixing.cutmix(images, rows, partner=partner, box=mixing.Box(1, 5, 2, 8))
    for index in range(4):
        for y in range(8):
            for x in range(8):
                source = partner[index] if 1 <= y < 5 and 2 <= x < 8 else index
                assert torch.equal(mixed[index, :, y, x], images[source, :, y, x])
        assert targets[index, index] == pytest.approx(1 - 24 / 64)
        assert targets[index, partner[index]] == pytest.approx(24 / 64)


def test_cutmix_boxes_lie_in_the_image_and_cover_the_expected_fraction() -> None:
    """Unclipped boxes of Beta(1, 1) cover half on average; the border takes some of it."""
    rng = np.random.default_rng(0)
    boxes = [mixing.cutmix_box(512, 512, alpha=1.0, rng=rng) for _ in range(4000)]
    areas = []
    for box in boxes:
        assert 0 <= box.top <= box.bottom <= 512
        assert 0 <= box.left <= box.right <= 512
        areas.append((box.bottom - box.top) * (box.right - box.left) / 512**2)
    plain = np.random.default_rng(1)
    expected = []
    for _ in range(4000):
        side, y, x = np.sqrt(plain.random()), plain.random(), plain.random()
        spans = [min(c + side / 2, 1) - max(c - side / 2, 0) for c in (y, x)]
        expected.append(spans[0] * spans[1])
    assert np.mean(areas) == pytest.approx(np.mean(expected), abs=0.02)
