"""CutOut and random erasing against plain loops over single images, and as frequent as torchvision's."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision import transforms

from agmax.augment import erasing
from agmax.core.batch import RawBatch
from helpers.augment import make_pipeline


@pytest.mark.parametrize("length", [0, 1, 6, 16])
def test_cutout_fills_the_clipped_square(length: int) -> None:
    images = torch.randn(30, 2, 10, 14)
    result = erasing.erase_(
        images.clone(), erasing.cutout_boxes(30, 10, 14, length=length, rng=np.random.default_rng(2))
    )
    rng, half = np.random.default_rng(2), length // 2
    rows, columns = rng.integers(0, 10, 30).tolist(), rng.integers(0, 14, 30).tolist()
    for index, (y, x) in enumerate(zip(rows, columns, strict=True)):
        expected = images[index].clone()
        expected[:, max(y - half, 0) : min(y + half, 10), max(x - half, 0) : min(x + half, 14)] = 0
        assert torch.equal(result[index], expected)


def test_centers_of_cutout_are_uniform_over_the_image() -> None:
    """Squares of 4 rows reach from 2 above their center to 1 below: the center is the top and 2."""
    boxes = erasing.cutout_boxes(100_000, 8, 14, length=4, rng=np.random.default_rng(0))
    for first, last, side in [(boxes.top, boxes.bottom, 8), (boxes.left, boxes.right, 14)]:
        assert torch.equal(last - first, torch.full_like(first, 4))
        assert stats.chisquare(torch.bincount(first + 2, minlength=side).numpy()).pvalue > 1e-3
        assert (first + 2).max() == side - 1
    places = stats.contingency.crosstab(boxes.top, boxes.left).count
    assert stats.chi2_contingency(places).pvalue > 1e-3


def test_erasing_fills_each_box_with_zero() -> None:
    """Boxes may exceed the image on every side, or be empty."""
    images = torch.randn(5, 2, 6, 9)
    boxes = erasing.Boxes(
        top=torch.tensor([-3, 0, 2, 4, 1]),
        bottom=torch.tensor([2, 6, 2, 60, 3]),
        left=torch.tensor([-1, 0, 1, 7, 3]),
        right=torch.tensor([3, 9, 5, 9, 3]),
    )
    results = erasing.erase_(images.clone(), boxes)
    for index, (top, bottom, left, right) in enumerate(zip(*(edge.tolist() for edge in boxes), strict=True)):
        for y in range(6):
            for x in range(9):
                occluded = top <= y < bottom and left <= x < right
                expected = torch.zeros(2) if occluded else images[index, :, y, x]
                assert torch.equal(results[index, :, y, x], expected)
    assert torch.equal(results[2], images[2]) and torch.equal(results[4], images[4])


def random_boxes(
    count: int,
    height: int,
    width: int,
    *,
    p: float = 1.0,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 10 / 3),
) -> tuple[Any, Any, Any, Any]:
    """Draw random erasing's boxes; return top, left, height and width of each."""
    boxes = erasing.random_erasing_boxes(
        count, height, width, p=p, scale=scale, ratio=ratio, rng=np.random.default_rng(0)
    )
    top, bottom, left, right = (edge.numpy() for edge in boxes)
    return top, left, bottom - top, right - left


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (28, 41), (96, 20)])
def test_random_boxes_lie_inside_and_have_the_settings_area_and_ratio(height: int, width: int) -> None:
    """Sides are rounded, so the true ones lie half a pixel about them."""
    top, left, tall, wide = random_boxes(20_000, height, width, scale=(0.05, 0.3), ratio=(0.5, 3.0))
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + tall <= height).all() and (left + wide <= width).all()
    assert (tall < height).all() and (wide < width).all()
    erased = (tall > 0) & (wide > 0)
    assert erased.mean() > 0.99
    tall, wide = tall[erased], wide[erased]
    assert ((tall + 0.5) * (wide + 0.5) >= 0.05 * height * width).all()
    assert ((tall - 0.5) * (wide - 0.5) <= 0.3 * height * width).all()
    assert ((tall + 0.5) / (wide - 0.5) >= 0.5).all()
    assert ((tall - 0.5) / (wide + 0.5) <= 3.0).all()


def test_random_boxes_have_uniform_areas_and_places_and_log_uniform_ratios() -> None:
    """In an image of 2000 by 3000 pixels every shape fits, and rounding does not matter."""
    top, left, tall, wide = random_boxes(20_000, 2000, 3000, scale=(0.02, 0.1), ratio=(0.5, 3.0))
    area = tall * wide / (2000 * 3000)
    ratio = np.log(tall / wide)
    rows, columns = top / (2000 - tall), left / (3000 - wide)
    spans = {"area": (area, 0.02, 0.1), "ratio": (ratio, np.log(0.5), np.log(3.0))}
    spans |= {"rows": (rows, 0.0, 1.0), "columns": (columns, 0.0, 1.0)}
    for name, (numbers, low, high) in spans.items():
        assert stats.kstest(numbers, stats.uniform(low, high - low).cdf).pvalue > 1e-3, name
    for first, second in itertools.combinations((area, ratio, rows, columns), 2):
        assert abs(stats.spearmanr(first, second).statistic) < 4 / np.sqrt(20_000)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (20, 41)])
def test_random_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    """Where tall or wide shapes do not fit and others are tried, all four numbers are compared, in five classes each.

    torchvision's areas are uniform and its places too; the counts of both programs form one table.
    """
    ours = random_boxes(8000, height, width, scale=(0.02, 0.6))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.zeros(3, height, width)
        drawn = [
            transforms.RandomErasing.get_params(image, scale=(0.02, 0.6), ratio=(0.3, 10 / 3), value=[0.0])[:4]
            for _ in range(8000)
        ]
    for one, two in zip(ours, np.array(drawn).T, strict=True):
        edges = np.unique(np.quantile(two, [0.2, 0.4, 0.6, 0.8]))
        table = [np.bincount(np.searchsorted(edges, numbers), minlength=len(edges) + 1) for numbers in (one, two)]
        assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_random_erasing_does_not_change_the_other_images(probability: float) -> None:
    _, _, tall, wide = random_boxes(20_000, 32, 32, p=probability)
    fraction = float(((tall > 0) & (wide > 0)).mean())
    assert abs(fraction - probability) <= 4 * np.sqrt(probability * (1 - probability) / 20_000)
    assert np.array_equal(tall > 0, wide > 0)


def test_where_no_box_fits_nothing_is_erased() -> None:
    """A box with the image's area has the image's sides; torchvision takes only boxes with smaller sides."""
    _, _, tall, wide = random_boxes(50, 16, 16, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert not tall.any() and not wide.any()


@pytest.mark.parametrize("size", [8, 32])
def test_random_erasing_puts_one_box_of_zeros_into_half_of_the_views(size: int) -> None:
    images = torch.full((400, 3, size, size), 255, dtype=torch.uint8)
    sample = RawBatch(images, torch.arange(400) % 10, torch.arange(400))
    make = make_pipeline("ResNet8-no_basic_augment-random_erasing-agmax", dataset__image_size=size)
    occluded = make(sample, step=0).images == 0
    assert torch.equal(occluded.any(2), occluded.all(2))  # all channels at once
    holes = occluded[:, :, 0]
    rows, columns = holes.any(3), holes.any(2)
    assert torch.equal(holes, rows[..., None] & columns[..., None, :])
    for line in (rows, columns):
        steps = (line[..., 1:] != line[..., :-1]).sum(-1) + line[..., 0] + line[..., -1]
        assert set(steps.flatten().tolist()) <= {0, 2}  # in one piece
    erased = holes.flatten(2).any(2)
    assert abs(erased.float().mean() - 0.5) < 4 * np.sqrt(0.25 / 800)
    both = erased.all(1)
    assert abs(both.float().mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)
    assert (holes[both, 0] != holes[both, 1]).flatten(1).any(1).float().mean() > 0.9
