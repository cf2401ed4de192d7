"""Batched augmentations against plain loops over single images."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agmax import build
from agmax.augment import erasing, geometry, mixing, pipeline
from agmax.batch import Batch, Sample
from agmax.config.resolve import Setting, resolve


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def make_pipeline(name: str, dataset: str = "cifar10", **settings: Any) -> pipeline.Pipeline:
    typed = [Setting(key.replace("__", "."), value, "test") for key, value in settings.items()]
    return build.pipeline(resolve(name, dataset=dataset, settings=typed).config)


def sample_of(count: int = 12, channels: int = 3, size: int = 32, seed: int = 0) -> Sample:
    return Sample(random_images(count, channels, size, size, seed=seed), torch.arange(count) % 10, torch.arange(count))


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 9, 12), (1, 8, 8)])
def test_crop_equals_slicing_each_padded_image(channels: int, height: int, width: int) -> None:
    images = random_images(20, channels, height, width)
    top, left = geometry.crop_corners(20, padding=3, rng=np.random.default_rng(1))
    cropped = geometry.crop(images, top, left, padding=3)
    for image, y, x, result in zip(images, top.tolist(), left.tolist(), cropped, strict=True):
        bordered = torch.zeros(channels, height + 6, width + 6, dtype=torch.uint8)
        bordered[:, 3:-3, 3:-3] = image
        assert torch.equal(result, bordered[:, y : y + height, x : x + width])


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
    rows, columns = erasing.cutout_centres(30, 10, 14, rng=np.random.default_rng(2))
    result = erasing.cutout(images, rows, columns, length=length)
    half = length // 2
    for index in range(30):
        expected = images[index].clone()
        y, x = int(rows[index]), int(columns[index])
        expected[:, max(y - half, 0) : min(y + half, 10), max(x - half, 0) : min(x + half, 14)] = 0
        assert torch.equal(result[index], expected)


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
    boxes = [mixing.cutmix_box(512, 512, beta=1.0, rng=rng) for _ in range(4000)]
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


@pytest.mark.parametrize("mix", ["standard", "mixup", "cutmix", "cutout", "cutmix-label_smoothing", "no_basic_augment"])
@pytest.mark.parametrize("method", ["", "-agmax"])
def test_batches_have_their_shapes_and_rows_sum_to_one(mix: str, method: str) -> None:
    batch = make_pipeline(f"ResNet8-{mix}{method}", augment__cutmix__probability=1.0)(sample_of(), step=3)
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


@pytest.mark.parametrize("part", ["standard", "cutout", "mixup", "cutmix"])
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


def test_views_cut_by_workers_are_taken_as_they_are() -> None:
    views = random_images(3, 2, 3, 16, 16)
    sample = Sample(views, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    make = make_pipeline("ResNet8-no_basic_augment-agmax")
    expected = (views / 255 - make.mean[:, None, None]) / make.std[:, None, None]
    torch.testing.assert_close(make(sample, step=0).images, expected)


def test_gray_images_are_repeated_for_a_model_of_three_channels() -> None:
    make = make_pipeline("ResNet8-standard", dataset="fashion_mnist", model__channels=3)
    batch = make(sample_of(channels=1, size=28), step=0)
    assert batch.images.shape == (12, 1, 3, 28, 28)
    assert torch.equal(batch.images[:, :, 0], batch.images[:, :, 2])
