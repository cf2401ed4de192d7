"""Complete batches, augmented as configured."""

from typing import Any

import numpy as np
import pytest
import torch

from agmax.augment import pipeline
from agmax.core.batch import Batch, RawBatch
from helpers.augment import make_pipeline, random_images, raw_batch

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
    batch = make_pipeline(f"ResNet8-{parts}{method}", augment__cutmix__p=1.0)(raw_batch(), step=3)
    num_views = 2 if method else 1
    assert batch.images.shape == (12, num_views, 3, 32, 32)
    assert batch.images.dtype == torch.float32
    assert batch.targets.shape == (12, num_views, 10)
    torch.testing.assert_close(batch.targets.sum(-1), torch.ones(12, num_views))
    assert torch.equal(batch.weights, torch.ones(12, num_views))


def test_without_augmentation_a_batch_is_the_normalized_images() -> None:
    make = make_pipeline("ResNet8-no_basic_augment")
    raw = raw_batch()
    batch = make(raw, step=0)
    expected = (raw.images / 255 - make.mean[:, None, None]) / make.std[:, None, None]
    torch.testing.assert_close(batch.images[:, 0], expected)


@pytest.mark.parametrize("part", ["standard", "cutout", "random_erasing", "mixup", "cutmix"])
def test_two_views_of_an_image_differ_and_so_do_steps_and_seeds(part: str) -> None:
    make = make_pipeline(f"ResNet8-{part}-agmax", augment__cutmix__p=1.0)
    first, again, later = (make(raw_batch(), step=step) for step in (5, 5, 6))
    other = make_pipeline(f"ResNet8-{part}-agmax", augment__cutmix__p=1.0, train__seed=1)(raw_batch(), step=5)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images[:, 0], first.images[:, 1])
    assert not torch.equal(first.images, later.images)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_two_views_of_an_image_meet_different_partners(mix: str) -> None:
    raw = raw_batch(10)._replace(labels=torch.arange(10))
    batch = make_pipeline(f"ResNet8-{mix}-agmax", augment__cutmix__p=1.0)(raw, step=1)
    met = [{(i, j) for i, j in view.nonzero().tolist() if i != j} for view in batch.targets.unbind(1)]
    assert met[0] != met[1]
    ratios = batch.targets.diagonal(dim1=0, dim2=2)  # [V, N], the fraction of the image's own class
    assert not torch.equal(ratios[0], ratios[1])


def test_the_first_view_does_not_depend_on_the_number_of_views() -> None:
    one, two = (make_pipeline(f"ResNet8-cutout-mixup{method}")(raw_batch(), step=2) for method in ("", "-agmax"))
    assert torch.equal(one.images[:, 0], two.images[:, 0])
    assert torch.equal(one.targets[:, 0], two.targets[:, 0])


def test_filling_another_slot_does_not_change_the_crops() -> None:
    plain, erased = (make_pipeline(f"ResNet8-{part}")(raw_batch(), step=4) for part in ("standard", "cutout"))
    kept = erased.images != 0
    assert torch.equal(plain.images[kept], erased.images[kept])
    assert kept.float().mean() < 0.95


def test_cutmix_is_applied_with_its_probability() -> None:
    make = make_pipeline("ResNet8-cutmix", augment__cutmix__p=0.3)
    raw = raw_batch(4, size=8)
    mixed = sum(not is_hard(make(raw, step=step)) for step in range(600))
    assert abs(mixed - 0.3 * 600) < 4 * np.sqrt(600 * 0.3 * 0.7) + 10  # some boxes are empty


def is_hard(batch: Batch) -> bool:
    return bool((batch.targets.max(-1).values == 1).all())


def test_smoothed_rows_are_mixed_too() -> None:
    raw = raw_batch(2)._replace(labels=torch.tensor([0, 1]))
    batch = make_pipeline("ResNet8-mixup-label_smoothing")(raw, step=0)
    assert batch.targets.min().item() == pytest.approx(0.1 / 10)


EVERYTHING = "soft_crop-rand_augment-random_erasing-cutmix-label_smoothing"


@pytest.mark.parametrize("name", ["standard-auto_augment-cutout-mixup", EVERYTHING])
@pytest.mark.parametrize("num_views", [1, 3])
def test_a_batch_does_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch, name: str, num_views: int) -> None:
    settings: dict[str, Any] = {"augment__color_jitter__contrast": 0.4, "augment__pca_lighting__std": 0.1}
    make = make_pipeline(f"ResNet8-{name}", objective__num_views=num_views, **settings)
    cut_once = raw_batch(11)
    for raw in (cut_once, cut_once._replace(images=random_images(11, num_views, 3, 32, 32))):
        at_once = make(raw, step=2)
        for size in (1, 4, 5):
            with monkeypatch.context() as patch:
                patch.setitem(pipeline.CHUNK, "cpu", size * num_views * 3 * 32 * 32 + 1)
                for one, two in zip(make(raw, step=2), at_once, strict=True):
                    assert (one is None and two is None) or torch.equal(one, two)


@pytest.mark.parametrize("name", ["standard-auto_augment-cutout-mixup", EVERYTHING])
def test_a_batch_does_not_depend_on_the_memory_layout(name: str) -> None:
    """Decoders deliver the channels of a pixel side by side."""
    make = make_pipeline(f"ResNet8-{name}-agmax")
    for images in (random_images(6, 3, 32, 32), random_images(6, 2, 3, 32, 32)):
        raw = raw_batch(6)._replace(images=images)
        laid = raw._replace(images=images.movedim(-3, -1).contiguous().movedim(-1, -3))
        assert not laid.images.is_contiguous()
        assert torch.equal(make(laid, step=0).images, make(raw, step=0).images)


def test_views_cropped_by_workers_are_used_unchanged() -> None:
    views = random_images(3, 2, 3, 16, 16)
    raw = RawBatch(views, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    make = make_pipeline("ResNet8-no_basic_augment-agmax")
    expected = (views / 255 - make.mean[:, None, None]) / make.std[:, None, None]
    torch.testing.assert_close(make(raw, step=0).images, expected)


def test_gray_images_are_repeated_for_a_model_of_three_channels() -> None:
    make = make_pipeline("ResNet8-standard", dataset="fashion_mnist", model__channels=3)
    batch = make(raw_batch(channels=1, size=28), step=0)
    assert batch.images.shape == (12, 1, 3, 28, 28)
    assert torch.equal(batch.images[:, :, 0], batch.images[:, :, 2])
