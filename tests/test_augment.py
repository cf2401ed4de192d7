"""Batched augmentations against plain loops over single images."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision import transforms

from agmax.augment import erasing, geometry, mixing, pipeline
from agmax.core.batch import Batch, RawBatch
from helpers.augment import make_pipeline, random_images, sample_of


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 9, 12), (1, 8, 8)])
def test_crop_equals_slicing_each_padded_image(channels: int, height: int, width: int) -> None:
    images = random_images(20, channels, height, width)
    top, left = geometry.crop_corners(20, padding=3, rng=np.random.default_rng(1))
    cropped = geometry.crop(images, top, left, padding=3)
    for image, y, x, result in zip(images, top.tolist(), left.tolist(), cropped, strict=True):
        bordered = torch.zeros(channels, height + 6, width + 6, dtype=torch.uint8)
        bordered[:, 3:-3, 3:-3] = image
        assert torch.equal(result, bordered[:, y : y + height, x : x + width])


@pytest.mark.parametrize("padding", [0, 2])
def test_crop_takes_images_that_lie_in_memory_as_they_like(padding: int) -> None:
    images = random_images(20, 3, 9, 12)
    top, left = geometry.crop_corners(20, padding=padding, rng=np.random.default_rng(1))
    expected = geometry.crop(images, top, left, padding=padding)
    layouts = {
        "channels last": images.to(memory_format=torch.channels_last),
        "every second": torch.stack([images.flip(0), images], dim=1)[:, 1],
        "behind others": torch.cat([images[:2].flip(0), images])[2:],
        "a window of larger ones": torch.nn.functional.pad(images, (2, 3, 4, 1))[..., 4:-1, 2:-3],
    }
    for name, laid in layouts.items():
        assert torch.equal(laid, images)
        assert torch.equal(geometry.crop(laid, top, left, padding=padding), expected), name


def test_crop_corners_are_uniform_and_reach_both_ends() -> None:
    top, left = geometry.crop_corners(90_000, padding=4, rng=np.random.default_rng(0))
    for corners in (top, left):
        counts = torch.bincount(corners, minlength=9)
        assert len(counts) == 9
        assert (counts - 10_000).abs().max() < 5 * 100  # five standard deviations


def test_flip_mirrors_the_chosen_images_alone() -> None:
    images = random_images(6, 3, 5, 7)
    chosen = torch.tensor([True, False, True, True, False, False])
    for image, mirrored, result in zip(images, chosen, geometry.flip(images, chosen), strict=True):
        for x in range(7):
            assert torch.equal(result[:, :, x], image[:, :, 6 - x if mirrored else x])


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


def test_centres_of_cutout_are_uniform_over_the_image() -> None:
    """Squares of 4 rows reach from 2 above their centre to 1 below: the centre is the top and 2."""
    boxes = erasing.cutout_boxes(100_000, 8, 14, length=4, rng=np.random.default_rng(0))
    for first, last, side in [(boxes.top, boxes.bottom, 8), (boxes.left, boxes.right, 14)]:
        assert torch.equal(last - first, torch.full_like(first, 4))
        assert stats.chisquare(torch.bincount(first + 2, minlength=side).numpy()).pvalue > 1e-3
        assert (first + 2).max() == side - 1
    places = stats.contingency.crosstab(boxes.top, boxes.left).count
    assert stats.chi2_contingency(places).pvalue > 1e-3


def test_erasing_fills_each_box_with_zero() -> None:
    """Boxes may stick out on every side, or be empty."""
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
                hidden = top <= y < bottom and left <= x < right
                expected = torch.zeros(2) if hidden else images[index, :, y, x]
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
def test_random_erasing_leaves_the_other_images_alone(probability: float) -> None:
    _, _, tall, wide = random_boxes(20_000, 32, 32, p=probability)
    share = float(((tall > 0) & (wide > 0)).mean())
    assert abs(share - probability) <= 4 * np.sqrt(probability * (1 - probability) / 20_000)
    assert np.array_equal(tall > 0, wide > 0)


def test_where_no_box_fits_nothing_is_erased() -> None:
    """A box of the image's whole area has its sides, and torchvision takes smaller ones alone."""
    _, _, tall, wide = random_boxes(50, 16, 16, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert not tall.any() and not wide.any()


@pytest.mark.parametrize("size", [8, 32])
def test_random_erasing_puts_one_box_of_zeros_into_half_of_the_views(size: int) -> None:
    images = torch.full((400, 3, size, size), 255, dtype=torch.uint8)
    sample = RawBatch(images, torch.arange(400) % 10, torch.arange(400))
    make = make_pipeline("ResNet8-no_basic_augment-random_erasing-agmax", dataset__image_size=size)
    hidden = make(sample, step=0).images == 0
    assert torch.equal(hidden.any(2), hidden.all(2))  # all channels at once
    holes = hidden[:, :, 0]
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


def test_cutmix_boxes_lie_in_the_image_and_cover_the_expected_share() -> None:
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


PARTS = [
    "standard",
    "no_basic_augment",
    "wide_crop",
    "auto_augment",
    "rand_augment",
    "trivial_augment",
    "cutout",
    "random_erasing",
    "mixup",
    "cutmix",
    "cutmix-label_smoothing",
    "wide_crop-trivial_augment-random_erasing-cutmix",
]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("method", ["", "-agmax"])
def test_batches_have_their_shapes_and_rows_sum_to_one(parts: str, method: str) -> None:
    batch = make_pipeline(f"ResNet8-{parts}{method}", augment__cutmix__probability=1.0)(sample_of(), step=3)
    num_views = 2 if method else 1
    assert batch.images.shape == (12, num_views, 3, 32, 32)
    assert batch.images.dtype == torch.float32
    assert batch.targets.shape == (12, num_views, 10)
    torch.testing.assert_close(batch.targets.sum(-1), torch.ones(12, num_views))
    assert torch.equal(batch.weights, torch.ones(12, num_views))


def test_without_augmentation_a_batch_is_the_normalised_images() -> None:
    make = make_pipeline("ResNet8-no_basic_augment")
    sample = sample_of()
    batch = make(sample, step=0)
    expected = (sample.images / 255 - make.mean[:, None, None]) / make.std[:, None, None]
    torch.testing.assert_close(batch.images[:, 0], expected)


@pytest.mark.parametrize("part", ["standard", "cutout", "random_erasing", "mixup", "cutmix"])
def test_two_views_of_an_image_differ_and_so_do_steps_and_seeds(part: str) -> None:
    make = make_pipeline(f"ResNet8-{part}-agmax", augment__cutmix__probability=1.0)
    first, again, later = (make(sample_of(), step=step) for step in (5, 5, 6))
    other = make_pipeline(f"ResNet8-{part}-agmax", augment__cutmix__probability=1.0, train__seed=1)(sample_of(), step=5)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images[:, 0], first.images[:, 1])
    assert not torch.equal(first.images, later.images)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_two_views_of_an_image_meet_different_partners(mix: str) -> None:
    sample = sample_of(10)._replace(labels=torch.arange(10))
    batch = make_pipeline(f"ResNet8-{mix}-agmax", augment__cutmix__probability=1.0)(sample, step=1)
    met = [{(i, j) for i, j in view.nonzero().tolist() if i != j} for view in batch.targets.unbind(1)]
    assert met[0] != met[1]
    ratios = batch.targets.diagonal(dim1=0, dim2=2)  # [V, N], the share of the image's own class
    assert not torch.equal(ratios[0], ratios[1])


def test_the_first_view_does_not_depend_on_the_number_of_views() -> None:
    one, two = (make_pipeline(f"ResNet8-cutout-mixup{method}")(sample_of(), step=2) for method in ("", "-agmax"))
    assert torch.equal(one.images[:, 0], two.images[:, 0])
    assert torch.equal(one.targets[:, 0], two.targets[:, 0])


def test_filling_another_slot_does_not_change_the_crops() -> None:
    plain, erased = (make_pipeline(f"ResNet8-{part}")(sample_of(), step=4) for part in ("standard", "cutout"))
    kept = erased.images != 0
    assert torch.equal(plain.images[kept], erased.images[kept])
    assert kept.float().mean() < 0.95


def test_cutmix_happens_as_often_as_its_probability_says() -> None:
    make = make_pipeline("ResNet8-cutmix", augment__cutmix__probability=0.3)
    sample = sample_of(4, size=8)
    mixed = sum(not is_hard(make(sample, step=step)) for step in range(600))
    assert abs(mixed - 0.3 * 600) < 4 * np.sqrt(600 * 0.3 * 0.7) + 10  # some boxes are empty


def is_hard(batch: Batch) -> bool:
    return bool((batch.targets.max(-1).values == 1).all())


def test_smoothed_rows_are_mixed_too() -> None:
    sample = sample_of(2)._replace(labels=torch.tensor([0, 1]))
    batch = make_pipeline("ResNet8-mixup-label_smoothing")(sample, step=0)
    assert batch.targets.min().item() == pytest.approx(0.1 / 10)


EVERYTHING = "soft_crop-rand_augment-random_erasing-cutmix-label_smoothing"


@pytest.mark.parametrize("name", ["standard-auto_augment-cutout-mixup", EVERYTHING])
@pytest.mark.parametrize("num_views", [1, 3])
def test_a_batch_does_not_depend_on_how_many_images_are_worked_on_at_once(
    monkeypatch: pytest.MonkeyPatch, name: str, num_views: int
) -> None:
    settings: dict[str, Any] = {"augment__color_jitter__contrast": 0.4, "augment__lighting__std": 0.1}
    make = make_pipeline(f"ResNet8-{name}", objective__num_views=num_views, **settings)
    cut_once = sample_of(11)
    for sample in (cut_once, cut_once._replace(images=random_images(11, num_views, 3, 32, 32))):
        at_once = make(sample, step=2)
        for size in (1, 4, 5):
            with monkeypatch.context() as patch:
                patch.setitem(pipeline.CHUNK, "cpu", size * num_views * 3 * 32 * 32 + 1)
                for one, two in zip(make(sample, step=2), at_once, strict=True):
                    assert (one is None and two is None) or torch.equal(one, two)


@pytest.mark.parametrize("name", ["standard-auto_augment-cutout-mixup", EVERYTHING])
def test_a_batch_does_not_depend_on_how_pixels_lie_in_memory(name: str) -> None:
    """Decoders deliver the channels of a pixel side by side."""
    make = make_pipeline(f"ResNet8-{name}-agmax")
    for images in (random_images(6, 3, 32, 32), random_images(6, 2, 3, 32, 32)):
        sample = sample_of(6)._replace(images=images)
        laid = sample._replace(images=images.movedim(-3, -1).contiguous().movedim(-1, -3))
        assert not laid.images.is_contiguous()
        assert torch.equal(make(laid, step=0).images, make(sample, step=0).images)


def test_views_cut_by_workers_are_taken_as_they_are() -> None:
    views = random_images(3, 2, 3, 16, 16)
    sample = RawBatch(views, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    make = make_pipeline("ResNet8-no_basic_augment-agmax")
    expected = (views / 255 - make.mean[:, None, None]) / make.std[:, None, None]
    torch.testing.assert_close(make(sample, step=0).images, expected)


def test_gray_images_are_repeated_for_a_model_of_three_channels() -> None:
    make = make_pipeline("ResNet8-standard", dataset="fashion_mnist", model__channels=3)
    batch = make(sample_of(channels=1, size=28), step=0)
    assert batch.images.shape == (12, 1, 3, 28, 28)
    assert torch.equal(batch.images[:, :, 0], batch.images[:, :, 2])
