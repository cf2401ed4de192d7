"""Each transform called alone, and the pipeline that sorts them: keys, rows, what is refused, what a new one moves."""

import dataclasses
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agmax.augment import (
    AutoAugment,
    ColorJitter,
    CutMix,
    CutOut,
    Key,
    Mix,
    MixUp,
    OccludingTransform,
    PCALighting,
    Pipeline,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    SoftCrop,
    Softening,
    Transform,
    TrivialAugmentWide,
    color,
    pipeline,
    soften,
)
from agmax.core.batch import Batch
from agmax.core.rng import generator
from helpers.augment import random_images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ON_PIXELS: list[Transform] = [
    RandomCrop(),
    RandomHorizontalFlip(),
    AutoAugment(),
    AutoAugment("imagenet", "torchvision"),
    RandAugment(),
    RandAugment(num_ops=3, definition="agmax"),
    TrivialAugmentWide(),
    ColorJitter(0.4, 0.4, 0.4),
]
OCCLUDING: list[OccludingTransform] = [CutOut(), RandomErasing(), SoftCrop()]
ON_FLOATS: list[Transform] = [PCALighting(), *OCCLUDING]
EVERY = [*ON_PIXELS, *ON_FLOATS]
STREAMS = {
    RandomCrop: "crop",
    RandomHorizontalFlip: "flip",
    AutoAugment: "policy",
    RandAugment: "policy",
    TrivialAugmentWide: "policy",
    ColorJitter: "color jitter",
    PCALighting: "lighting",
    CutOut: "cutout",
    RandomErasing: "random erasing",
    SoftCrop: "soft crop",
    MixUp: "mix",
    CutMix: "mix",
}


def normalized(images: Tensor) -> Tensor:
    return color.normalize(images, torch.tensor(MEAN), torch.tensor(STD))


def images_for(transform: Transform, count: int = 24) -> Tensor:
    """Return images [B, C, H, W] as the transform takes them, higher than wide."""
    images = random_images(count, 3, 20, 16)
    return images if transform in ON_PIXELS else normalized(images)


# --- alone -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", EVERY, ids=str)
def test_a_transform_depends_on_its_key_alone_and_does_not_change_its_input(transform: Transform) -> None:
    images = images_for(transform)
    before = images.clone()
    one, again, other = (transform(images, key=key) for key in (Key(0, 5), Key(0, 5), Key(0, 6)))
    assert one.shape == images.shape and one.dtype == images.dtype
    assert torch.equal(one, again)
    assert not torch.equal(one, images) and not torch.equal(one, other)
    assert not torch.equal(one, transform(images, key=Key(1, 5)))
    assert not torch.equal(one, transform(images, key=Key(0, 5).of_view(0)))
    assert torch.equal(images, before)


@pytest.mark.parametrize("transform", EVERY, ids=str)
def test_without_a_key_torchs_seed_decides_and_two_calls_differ(transform: Transform) -> None:
    images = images_for(transform)
    batches = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        batches.append((transform(images), transform(images)))
    assert torch.equal(batches[0][0], batches[1][0]) and torch.equal(batches[0][1], batches[1][1])
    assert not torch.equal(batches[0][0], batches[0][1])
    assert not torch.equal(batches[0][0], batches[2][0])


@pytest.mark.parametrize("transform", EVERY, ids=str)
def test_rows_of_the_drawn_numbers_give_the_same_rows_of_the_batch(transform: Transform) -> None:
    images = images_for(transform)
    numbers = transform.draw(len(images), images.shape[1:], Key(2, 9))
    batch = transform(images, key=Key(2, 9))
    for rows in ([0], [23, 4, 4, 11], list(range(24)), list(range(5, 12))):
        assert all(len(each) == len(images) and each.device.type == "cpu" for each in numbers)
        assert torch.equal(transform.apply(images[rows], *(each[rows] for each in numbers)), batch[rows])


@pytest.mark.parametrize("transform", OCCLUDING, ids=str)
def test_an_occluding_transform_returns_the_visible_fraction(transform: OccludingTransform) -> None:
    """On images of ones, occluded pixels are 0 or the background, which is almost never 1."""
    images = torch.ones(200, 3, 20, 16)
    changed, visible = transform.with_visible(images, key=Key(0, 1))
    assert torch.equal(changed, transform(images, key=Key(0, 1)))
    torch.testing.assert_close(visible, (changed == 1).all(1).float().mean((1, 2)))
    assert 0.3 < visible.mean() < 0.95
    torch.manual_seed(0)
    assert not torch.equal(transform.with_visible(images)[1], transform.with_visible(images)[1])


def test_keys_have_the_random_streams_of_earlier_runs() -> None:
    assert {kind: kind.stream for kind in STREAMS} == STREAMS
    for key, names in [(Key(3, 7), (3, "augment", 7, "crop")), (Key(3, 7).of_view(1), (3, "augment", 7, "crop", 1))]:
        assert np.array_equal(key.rng("crop").random(9), generator(*names).random(9))
    assert Key(3, 7) == Key(3, 7) != Key(3, 7).of_view(0)
    top, left = RandomCrop(2).draw(50, (3, 8, 8), Key(3, 7).of_view(1))
    expected = generator(3, "augment", 7, "crop", 1).integers(0, 5, (2, 50))
    assert np.array_equal(np.stack([top, left]), expected)
    (chosen,) = RandomHorizontalFlip().draw(50, (3, 8, 8), Key(0, 1))
    assert np.array_equal(chosen, generator(0, "augment", 1, "flip").random(50) < 0.5)


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_flips_are_as_frequent_as_their_probability(p: float) -> None:
    images = random_images(2000, 1, 2, 6)
    flipped = (RandomHorizontalFlip(p)(images, key=Key(0)) == images.flip(-1)).flatten(1).all(1).float().mean()
    assert abs(flipped - p) < 4 * (p * (1 - p) / 2000) ** 0.5 + 1e-3


@pytest.mark.parametrize("transform", EVERY, ids=str)
def test_a_transform_is_a_value(transform: Transform) -> None:
    copy: Any = dataclasses.replace(transform)  # type: ignore[type-var]
    assert copy == transform and hash(copy) == hash(transform)
    with pytest.raises(dataclasses.FrozenInstanceError):
        copy.anything = 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomCrop(padding=-1), "padding (RandomCrop): -1 is out of range. Give a number of 0 or more"),
        (lambda: RandomHorizontalFlip(p=1.5), "p (RandomHorizontalFlip): 1.5 is out of range. Give a number from 0 to"),
        (lambda: AutoAugment("cifar"), "policy (AutoAugment): 'cifar' is not known. Give one of cifar10, svhn, imag"),
        (lambda: AutoAugment(magnitudes="timm"), "magnitudes (AutoAugment): 'timm' is not known"),
        (lambda: RandAugment(num_ops=0), "num_ops (RandAugment): 0 is out of range. Give a number of 1 or more"),
        (lambda: RandAugment(magnitude=31), "magnitude (RandAugment): 31 is out of range. Give a number from 0 to 30"),
        (lambda: RandAugment(definition="timm"), "definition (RandAugment): 'timm' is not known"),
        (lambda: ColorJitter(contrast=float("nan")), "contrast (ColorJitter): nan is out of range"),
        (lambda: PCALighting(std=-0.1), "std (PCALighting): -0.1 is out of range"),
        (lambda: CutOut(size=16), "size (CutOut): 16 is out of range. Give a number from 0 to 1"),
        (lambda: RandomErasing(scale=(0.4, 0.1)), "scale (RandomErasing): (0.4, 0.1) is not a range. Give two numbers"),
        (lambda: RandomErasing(scale=(0.1, 1.1)), "scale (RandomErasing): 1.1 is out of range"),
        (lambda: RandomErasing(ratio=(0.0, 1.0)), "ratio (RandomErasing): 0.0 is out of range"),
        (lambda: SoftCrop(sigma=-1), "sigma (SoftCrop): -1 is out of range"),
        (lambda: MixUp(alpha=-1), "alpha (MixUp): -1 is out of range"),
        (lambda: CutMix(alpha=0), "alpha (CutMix): 0 is out of range"),
        (lambda: CutMix(p=-0.1), "p (CutMix): -0.1 is out of range"),
        (
            lambda: Softening(confidence_source="other"),
            "confidence_source (Softening): 'other' is not known. Give one of own, shuffled, mean",
        ),
        (lambda: Softening(max_confidence=2), "max_confidence (Softening): 2 is out of range"),
    ],
)
def test_an_invalid_setting_is_refused_and_the_error_says_what_to_give(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make()


def test_images_of_another_dtype_are_refused() -> None:
    with pytest.raises(TypeError, match="uint8"):
        AutoAugment()(torch.rand(4, 3, 8, 8))
    with pytest.raises(ValueError, match="channels"):
        PCALighting()(torch.rand(4, 1, 8, 8))


# --- mixes and softening ---------------------------------------------------------------------------------------------

MIXES = [MixUp(), MixUp(1.0), CutMix(), CutMix(0.2)]


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_a_mix_depends_on_its_key_alone_and_mixes_rows_like_images(mix: Mix) -> None:
    """All pixels of image i are i, so the mean of a mixed image must equal that of its target row."""
    images = torch.arange(6.0)[:, None, None, None].expand(6, 3, 8, 8).clone()
    for step in range(20):
        mixed, rows = mix(images, torch.eye(6), key=Key(0, step))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), rows @ torch.arange(6.0))
        again, same = mix(images, torch.eye(6), key=Key(0, step))
        assert torch.equal(mixed, again) and torch.equal(rows, same)
    assert torch.equal(images[:, 0, 0, 0], torch.arange(6.0))
    batches = [mix(images, torch.eye(6), key=Key(0, step))[1] for step in range(20)]
    assert not all(torch.equal(batches[0], rows) for rows in batches)
    torch.manual_seed(1)
    fresh = [mix(images, torch.eye(6))[1] for _ in range(20)]
    torch.manual_seed(1)
    assert all(torch.equal(mix(images, torch.eye(6))[1], rows) for rows in fresh)
    assert not all(torch.equal(fresh[0], rows) for rows in fresh)


def test_a_mix_is_applied_to_complete_batches_with_probability_p() -> None:
    images, rows = torch.rand(8, 1, 4, 4), torch.eye(8)
    for p in (0.0, 0.3, 1.0):
        mixed = [not torch.equal(MixUp(1.0, p=p)(images, rows, key=Key(0, step))[0], images) for step in range(400)]
        assert abs(sum(mixed) / 400 - p) < 4 * (p * (1 - p) / 400) ** 0.5 + 1e-3


def test_soften_by_hand() -> None:
    """Half an image with 10 classes: 1 - 0.9 * 0.5 ** 2 = 0.775, of at most 0.8 with power 1: 0.8 - 0.7 * 0.5."""
    rows, weights = soften(torch.eye(10)[:2], torch.tensor([0.5, 1.0]))
    assert weights.tolist() == pytest.approx([0.775, 1.0])
    assert rows[0].tolist() == pytest.approx([0.775] + [0.025] * 9)
    assert rows[1].tolist() == pytest.approx([0.0, 1.0] + [0.0] * 8)
    _, weights = soften(torch.eye(10)[:1], torch.tensor([0.5]), power=1.0, max_confidence=0.8)
    assert weights.tolist() == pytest.approx([0.45])


# --- the pipeline ----------------------------------------------------------------------------------------------------


def make(*transforms: Transform, **settings: Any) -> Pipeline:
    return Pipeline(*transforms, **{"mean": MEAN, "std": STD, "num_classes": 10, "num_views": 2} | settings)


def assert_same(one: Batch, two: Batch) -> None:
    for first, second in zip(one, two, strict=True):
        assert (first is None and second is None) or torch.equal(first, second)


LABELS = torch.arange(24) % 10


@pytest.mark.parametrize("transform", EVERY, ids=str)
def test_each_view_of_a_pipeline_has_the_numbers_of_the_single_transform(transform: Transform) -> None:
    images = random_images(24, 3, 20, 16)
    batch = make(transform)(images, LABELS, key=Key(4, 2))
    for view in (0, 1):
        key = Key(4, 2).of_view(view)
        alone = (
            normalized(transform(images, key=key)) if transform in ON_PIXELS else transform(normalized(images), key=key)
        )
        assert torch.equal(batch.images[:, view], alone)
    assert torch.equal(batch.targets, torch.eye(10)[LABELS][:, None].expand(-1, 2, -1))
    assert (batch.visible is not None) == (transform in OCCLUDING)


def test_transforms_are_sorted_whatever_their_given_order() -> None:
    given = [RandomCrop(), RandomHorizontalFlip(), TrivialAugmentWide(), PCALighting(), CutOut(), SoftCrop()]
    images = random_images(12, 3, 16, 16)
    expected = make(*given)(images, LABELS[:12], key=Key(0))
    for order in itertools.islice(itertools.permutations(given), 0, 720, 37):
        assert make(*order).transforms == tuple(given)
        assert_same(make(*order)(images, LABELS[:12], key=Key(0)), expected)


WHOLES: dict[str, tuple[list[Transform], dict[str, Any]]] = {
    "everything": ([*ON_PIXELS[:3], *ON_FLOATS], {"mix": CutMix(), "softening": Softening(), "label_smoothing": 0.1}),
    "mixup now and then": ([RandomCrop(), CutOut()], {"mix": MixUp(1.0, p=0.5)}),
    "no mix": ([RandomCrop(), ColorJitter(0.4, 0.4, 0.4), RandomErasing()], {}),
    "shuffled": ([SoftCrop()], {"softening": Softening(confidence_source="shuffled")}),
    "mean of the batch": ([SoftCrop()], {"softening": Softening(confidence_source="mean", reweight="batch_mean")}),
    "nothing": ([], {}),
}


@pytest.mark.parametrize("name", WHOLES)
def test_rows_of_a_batch_have_the_numbers_of_the_complete_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transforms, settings = WHOLES[name]
    for images in (random_images(24, 3, 16, 16), random_images(24, 2, 3, 16, 16)):
        for step in range(4):
            batch = make(*transforms, **settings)(images, LABELS, key=Key(1, step))
            for rows in ([], [3], [20, 3, 7], list(range(12, 24)), torch.arange(0, 24, 2)):
                chosen = torch.as_tensor(rows, dtype=torch.int64)
                part = make(*transforms, **settings)(images, LABELS, key=Key(1, step), rows=rows)
                assert_same(part, Batch(*(None if each is None else each[chosen] for each in batch)))
                with monkeypatch.context() as patch:
                    patch.setitem(pipeline.CHUNK, "cpu", 5 * 2 * 3 * 16 * 16)
                    assert_same(part, make(*transforms, **settings)(images, LABELS, key=Key(1, step), rows=rows))


def test_only_the_requested_rows_are_augmented_without_a_mix() -> None:
    seen = []

    class Watched(RandomCrop):
        def apply(self, images: Tensor, top: Tensor, left: Tensor) -> Tensor:
            seen.append(len(images))
            return super().apply(images, top, left)

    make(Watched())(random_images(24, 3, 16, 16), LABELS, key=Key(0), rows=[1, 2, 3])
    assert seen == [6]


def test_a_pipeline_without_a_key_follows_torchs_seed() -> None:
    batches = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        batches.append(make(RandomCrop(), CutOut(), mix=MixUp())(random_images(8, 3, 16, 16), LABELS[:8]))
    assert_same(batches[0], batches[1])
    assert not torch.equal(batches[0].images, batches[2].images)


def test_only_the_slots_of_occluded_by_soften_targets() -> None:
    images = random_images(24, 3, 16, 16)
    occluding = [CutOut(), SoftCrop()]
    both, box, crop = (
        make(*occluding, softening=Softening(occluded_by=slots))(images, LABELS, key=Key(0))
        for slots in (None, ("erase",), ("soft_crop",))
    )
    assert both.visible is not None
    torch.testing.assert_close(both.weights, 1 - 0.9 * (1 - both.visible) ** 2)
    seen = [1 - ((1 - batch.weights) / 0.9).sqrt() for batch in (both, box, crop)]
    torch.testing.assert_close(seen[0], seen[1] * seen[2], atol=1e-3, rtol=0)
    assert_same(both._replace(targets=box.targets, weights=box.weights), box)
    hard = make(*occluding)(images, LABELS, key=Key(0))
    assert torch.equal(hard.weights, torch.ones(24, 2))
    assert hard.visible is not None and torch.equal(hard.visible, both.visible)


class UnknownSlot(RandomCrop):
    slot = "somewhere"


class AnotherCutOut(CutOut):
    stream = "another cutout"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make(UnknownSlot()), "slot (UnknownSlot): 'somewhere' is not known. Give one of crop, flip, policy"),
        (
            lambda: make(CutOut(0.2), CutOut(0.3)),
            "stream (CutOut): two transforms draw the same random numbers, of stream 'cutout'",
        ),
        (
            lambda: make(AutoAugment(), RandAugment()),
            "stream (AutoAugment): two transforms draw the same random numbers",
        ),
        (
            lambda: make(PCALighting(image_std=(1.0, 1.0, 1.0))),
            "image_std (PCALighting): it differs from the pipeline's std",
        ),
        (lambda: make(RandomCrop(), softening=Softening()), "softening (Pipeline): no transform occludes a part"),
        (lambda: make(CutOut(), softening=Softening(occluded_by=("soft_crop",))), "softening (Pipeline): no transform"),
        (lambda: make()(torch.rand(4, 3, 8, 8), LABELS[:4]), "images (Pipeline): torch.float32 [4, 3, 8, 8] with 4 la"),
        (lambda: make()(random_images(4, 3, 8, 8), LABELS[:5]), "images (Pipeline): torch.uint8 [4, 3, 8, 8] with 5 l"),
        (lambda: make()(random_images(4, 3, 3, 8, 8), LABELS[:4]), "images (Pipeline): torch.uint8 [4, 3, 3, 8, 8]"),
    ],
)
def test_an_invalid_pipeline_or_batch_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build()


def test_two_transforms_of_one_slot_keep_their_order_and_have_separate_numbers() -> None:
    images = torch.full((24, 3, 16, 16), 255, dtype=torch.uint8)
    one, two = (make(*pair)(images, LABELS, key=Key(0)) for pair in itertools.permutations([CutOut(), AnotherCutOut()]))
    assert make(AnotherCutOut(), CutOut()).transforms == (AnotherCutOut(), CutOut())
    assert torch.equal(one.images, two.images)  # boxes of zeros lie in any order
    alone = make(CutOut())(images, LABELS, key=Key(0))
    assert (one.images == 0).sum() > 1.3 * (alone.images == 0).sum()
