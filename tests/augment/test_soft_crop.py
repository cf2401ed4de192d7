"""Soft crop and softening: pixels against a padded canvas, offsets against exact probabilities, targets by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agmax.augment import geometry, soft_crop, targets
from agmax.core.batch import Batch
from helpers.augment import make_pipeline, random_images, raw_batch
from helpers.places import golden
from helpers.soft_crop import expected_rows, on_a_canvas, visible_pixels, white

NUM_DRAWS = 400_000
GOLDEN = golden("soft_augmentation.json")


# --- golden numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["visible_share"], ids=lambda case: f"{case['offset_y']},{case['offset_x']}")
def test_the_visible_fraction_is_the_reference_programs(case: dict[str, Any]) -> None:
    down, right = torch.tensor([case["offset_y"]]), torch.tensor([case["offset_x"]])
    fraction = soft_crop.visible_fraction(down, right, height=case["height"], width=case["width"])
    assert fraction.item() == pytest.approx(case["share"], abs=1e-6)
    assert targets.visible_overlap(fraction, "iou").item() == pytest.approx(case["iou"], abs=1e-6)
    assert targets.visible_overlap(fraction, "area") is fraction


@pytest.mark.parametrize("case", GOLDEN["confidence_curve"], ids=lambda case: f"{case['num_classes']}-{case['power']}")
def test_the_confidence_is_the_reference_programs(case: dict[str, Any]) -> None:
    visible, expected = torch.tensor(case["visible_to_confidence"], dtype=torch.float64).T
    settings = {name: case[name] for name in ("num_classes", "power", "max_confidence")}
    for numbers in (visible, visible.float()):
        torch.testing.assert_close(
            targets.confidence(numbers, **settings).double(), expected, atol=1e-6, rtol=0, check_dtype=False
        )


def test_confidence_does_not_fall_below_chance() -> None:
    """With two classes chance is 0.5, so a highest confidence of 0.3 is 0.5 as well."""
    visible = torch.linspace(0, 1, 5)
    confidence = targets.confidence(visible, num_classes=2, power=2, max_confidence=0.3)
    assert confidence.tolist() == [0.5] * 5


# --- the crop --------------------------------------------------------------------------------------------------------


def offsets(count: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw offsets up to the side, with those where nothing or everything is visible among them."""
    rng = np.random.default_rng(seed)
    down = torch.from_numpy(rng.integers(-height, height + 1, count))
    right = torch.from_numpy(rng.integers(-width, width + 1, count))
    down[:9] = torch.tensor([0, height, -height, 0, 0, height, -height, 1, -1])
    right[:9] = torch.tensor([0, 0, 0, width, -width, width, -width, 1 - width, width - 1])
    return down, right


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda images: images,
    "channels last": lambda images: images.to(memory_format=torch.channels_last),
    "behind others": lambda images: torch.cat([images[:2].flip(0), images])[2:],
    "every second": lambda images: torch.stack([images.flip(0), images], dim=1)[:, 1],
    "a crop of larger ones": lambda images: torch.nn.functional.pad(images, (2, 3, 4, 1))[..., 4:-1, 2:-3],
    "turned": lambda images: images.mT.contiguous().mT,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 14), (3, 32, 20), (2, 1, 5), (4, 5, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_soft_crop_equals_cutting_a_canvas(shape: tuple[int, int, int], dtype: torch.dtype, layout: str) -> None:
    images = random_images(40, *shape).to(dtype)
    laid = LAYOUTS[layout](images)
    assert torch.equal(laid, images)
    colors = random_images(40, shape[0], seed=1).to(dtype)
    down, right = offsets(40, *shape[1:])
    before = laid.clone()
    results = geometry.shifted_crop(laid, down, right, background=colors)
    assert results.shape == images.shape and results.dtype == dtype
    for image, y, x, color, result in zip(images, down.tolist(), right.tolist(), colors, results, strict=True):
        assert torch.equal(result, on_a_canvas(image, y, x, color))
    assert torch.equal(laid, before)


def test_a_crop_outside_of_the_image_holds_only_background() -> None:
    images = random_images(4, 3, 6, 7).float()
    colors = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    down, right = torch.tensor([0, 6, -9, 100]), torch.tensor([-100, 0, 2, 100])
    results = geometry.shifted_crop(images, down, right, background=colors)
    assert torch.equal(results, colors[:, :, None, None].expand(-1, -1, 6, 7))
    assert soft_crop.visible_fraction(down, right, height=6, width=7).tolist() == [0, 0, 0, 0]


def test_cropping_by_the_opposite_offset_restores_the_visible_pixels() -> None:
    images = random_images(40, 3, 12, 16)
    down, right = offsets(40, 12, 16)
    colors = torch.zeros(40, 3, dtype=torch.uint8)
    shifted = geometry.shifted_crop(images, down, right, background=colors)
    back = geometry.shifted_crop(shifted, -down, -right, background=colors)
    seen = geometry.shifted_crop(torch.full_like(images, 1), down, right, background=colors)
    seen = geometry.shifted_crop(seen, -down, -right, background=colors)
    assert torch.equal(back, images * seen)
    fraction = soft_crop.visible_fraction(down, right, height=12, width=16)
    assert torch.equal(seen[:, 0].float().mean(dim=(1, 2)), fraction)


class Largest(TorchDispatchMode):
    """Record the memory of the largest tensor that is created."""

    num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.num_bytes = max(self.num_bytes, leaf.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_no_canvas_is_created(dtype: torch.dtype) -> None:
    """A canvas would take nine times the memory of the images."""
    images = random_images(64, 3, 32, 32).to(dtype)
    down, right = offsets(64, 32, 32)
    with Largest() as largest:
        geometry.shifted_crop(images, down, right, background=torch.zeros(64, 3, dtype=dtype))
    size = images.untyped_storage().nbytes()
    assert size <= largest.num_bytes < 2 * size
    with Largest() as largest:
        images.repeat(9, 1, 1, 1)
    assert largest.num_bytes == 9 * size  # the measure sees what it should


# --- offsets ---------------------------------------------------------------------------------------------------------


def draw(count: int, height: int, width: int, sigma: float, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    down, right = soft_crop.soft_crop_offsets(count, height, width, sigma=sigma, rng=rng)
    assert down.dtype == right.dtype == torch.int64
    return down.numpy(), right.numpy()


def assert_fraction(observed: Any, expected: float, rounding: float = 5e-5) -> None:
    """Compare a fraction of draws with its probability, within three standard errors and its rounding."""
    error = np.sqrt(expected * (1 - expected) / len(observed))
    assert abs(observed.mean() - expected) < 3 * error + rounding


def test_offsets_have_the_probabilities_of_the_released_recipe() -> None:
    """At sigma 12 of 32 pixels (known exactly, four digits): 0 is twice as frequent as 1 or -1."""
    down, right = draw(NUM_DRAWS, 32, 32, 12 / 32)
    for numbers in (down, right):
        assert_fraction(numbers == 0, 0.0669)
        assert_fraction(numbers == 1, 0.0332)
        assert_fraction(numbers == -1, 0.0332)
        assert np.abs(numbers).max() <= 31
    visible = soft_crop.visible_fraction(torch.from_numpy(down), torch.from_numpy(right), height=32, width=32).numpy()
    assert_fraction(visible < 0.25, 0.1321)
    assert_fraction(visible == 1, 0.0045)
    assert abs(visible.mean() - 0.5221) < 3 * visible.std() / np.sqrt(NUM_DRAWS) + 5e-5


def truncated(side: int, sigma: float) -> dict[int, float]:
    """Return the probability of each offset: of a normal number within the side, cut off at the point."""
    edges = stats.norm(0, sigma * side).cdf
    total = edges(side) - edges(-side)
    probabilities = {0: (edges(1) - edges(-1)) / total}
    for offset in range(1, side):
        probabilities[offset] = probabilities[-offset] = (edges(offset + 1) - edges(offset)) / total
    return probabilities


@pytest.mark.parametrize(("height", "width", "sigma"), [(32, 32, 0.375), (28, 96, 0.3), (8, 17, 2.0), (24, 10, 0.05)])
def test_offsets_follow_the_truncated_normal_distribution_of_each_side(height: int, width: int, sigma: float) -> None:
    for numbers, side in zip(draw(NUM_DRAWS, height, width, sigma), (height, width), strict=True):
        expected = truncated(side, sigma)
        assert sum(expected.values()) == pytest.approx(1)
        assert set(numbers.tolist()) <= set(expected)
        common = [offset for offset, probability in expected.items() if probability * NUM_DRAWS >= 10]
        observed = [(numbers == offset).sum() for offset in common]
        ideal = [expected[offset] * NUM_DRAWS for offset in common]
        rest = NUM_DRAWS - sum(ideal)
        if rest >= 5:
            observed, ideal = [*observed, NUM_DRAWS - sum(observed)], [*ideal, rest]
        else:
            ideal = [number * sum(observed) / sum(ideal) for number in ideal]
        assert stats.chisquare(observed, ideal).pvalue > 1e-3


def test_offsets_are_symmetric_and_independent() -> None:
    down, right = draw(NUM_DRAWS, 32, 32, 0.375)
    for numbers in (down, right):
        positive, negative = int((numbers > 0).sum()), int((numbers < 0).sum())
        assert stats.binomtest(positive, positive + negative, 0.5).pvalue > 1e-3
    bins = [-40, -10, -2, 2, 10, 40]
    for first, second in [(down, right), (down[0::2], down[1::2]), (right[0::2], right[1::2])]:
        table = np.histogram2d(first, second, bins=[bins, bins])[0]
        assert table.sum() == len(first)
        assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("sigma", [0.01, 0.375, 3.0, 1000.0])
def test_no_offset_is_larger_than_the_side(sigma: float) -> None:
    down, right = draw(50_000, 20, 33, sigma)
    assert np.abs(down).max() <= 20
    assert np.abs(right).max() <= 33


def test_without_sigma_nothing_moves() -> None:
    down, right = draw(100, 20, 33, 0.0)
    assert not down.any() and not right.any()
    assert down.shape == right.shape == (100,)


def test_background_colors_are_normal_and_differ_by_channel() -> None:
    colors = soft_crop.backgrounds(20_000, 3, std=0.01, rng=np.random.default_rng(0)).numpy()
    assert colors.shape == (20_000, 3)
    assert stats.kstest(colors.ravel(), stats.norm(0, 0.01).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(colors.T)[np.triu_indices(3, 1)]).max() < 4 / np.sqrt(20_000)


# --- softened rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_a_certain_class_gets_the_confidence_and_the_others_the_rest(num_classes: int) -> None:
    confidence = torch.tensor([1.0, 0.9, 0.775, 1 / num_classes])
    labels = torch.tensor([0, 1, num_classes - 1, 1])
    rows = targets.blend_with_uniform(torch.eye(num_classes)[labels], confidence)
    for row, label, certain in zip(rows, labels.tolist(), confidence.tolist(), strict=True):
        for place in range(num_classes):
            expected = certain if place == label else (1 - certain) / (num_classes - 1)
            assert row[place].item() == pytest.approx(expected, abs=1e-6)


def test_softening_by_hand() -> None:
    """Half an image: 1 - 0.9 * 0.25 = 0.775 with 10 classes, 0.225 / 9 = 0.025 for each of the others."""
    confidence = targets.confidence(torch.tensor(0.5), num_classes=10, power=2, max_confidence=1.0)
    row = targets.blend_with_uniform(torch.eye(10)[3], confidence)
    assert row.tolist() == pytest.approx([0.025] * 3 + [0.775] + [0.025] * 6)


def test_softened_rows_of_any_probabilities_sum_to_one_and_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.dirichlet(np.ones(10), size=(50, 2)))
    confidence = torch.from_numpy(rng.uniform(0.1, 1, size=(50, 2)))
    softened = targets.blend_with_uniform(rows, confidence)
    torch.testing.assert_close(softened.sum(-1), torch.ones(50, 2, dtype=torch.float64))
    assert (softened >= 0).all()
    assert torch.equal(softened.argsort(-1), rows.argsort(-1))


# --- through the pipeline --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["", "-agmax"])
def test_a_batch_holds_the_visible_fraction_of_each_view(method: str) -> None:
    make = make_pipeline(f"ResNet8-soft_crop{method}", augment__soft__background=0.0)
    batch = make(white(200), step=3)
    assert batch.visible is not None
    assert batch.visible.shape == (200, 2 if method else 1)
    torch.testing.assert_close(batch.visible, visible_pixels(batch), atol=1e-6, rtol=0)
    assert 0.4 < batch.visible.mean() < 0.65
    assert batch.visible.std() > 0.1


def test_targets_soften_by_the_intersection_over_union_if_configured() -> None:
    """Image and crop overlap in v and cover 2 - v of an image; `visible` of the batch is still v."""
    settings: dict[str, Any] = {"augment__soft__background": 0.0, "augment__softening__visibility": "iou"}
    batch = make_pipeline("ResNet8-soft_crop-agmax", **settings)(white(100), step=0)
    fraction = visible_pixels(batch)
    assert batch.visible is not None
    torch.testing.assert_close(batch.visible, fraction, atol=1e-6, rtol=0)
    torch.testing.assert_close(batch.weights, 1 - 0.9 * (1 - fraction / (2 - fraction)) ** 2)


@pytest.mark.parametrize(("power", "highest"), [(2.0, 1.0), (4.0, 0.9)])
def test_targets_and_weights_follow_from_what_is_visible(power: float, highest: float) -> None:
    settings = {
        "augment__soft__background": 0.0,
        "augment__softening__power": power,
        "augment__softening__max_confidence": highest,
    }
    raw = white(60)
    batch = make_pipeline("ResNet8-soft_crop-agmax", **settings)(raw, step=1)
    confidence = highest - (highest - 0.1) * (1 - visible_pixels(batch)) ** power
    torch.testing.assert_close(batch.weights, confidence, atol=1e-6, rtol=0)
    torch.testing.assert_close(batch.targets, expected_rows(raw.labels, confidence), atol=1e-6, rtol=0)


def test_the_two_views_of_an_image_have_different_crops() -> None:
    batch = make_pipeline("ResNet8-soft_crop-agmax")(raw_batch(200), step=0)
    assert batch.visible is not None
    first, second = batch.visible.unbind(1)
    assert (first != second).float().mean() > 0.9
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(200)
    assert (batch.targets[:, 0] != batch.targets[:, 1]).any(-1).float().mean() > 0.9
    assert (batch.images[:, 0] != batch.images[:, 1]).flatten(1).any(1).all()


def test_smoothed_rows_are_softened_too() -> None:
    """Smoothing by 0.1 leaves 0.91 and 0.01; the softened row is s times that and (1 - s) / 10 for each class.

    s = (confidence - 0.1) / 0.9 is what a certain row would keep of itself.
    """
    raw = raw_batch(60)
    batch = make_pipeline("ResNet8-soft_crop-label_smoothing-agmax")(raw, step=0)
    torch.testing.assert_close(batch.targets.sum(-1), torch.ones(60, 2))
    for place, label in enumerate(raw.labels.tolist()):
        for view in (0, 1):
            kept = (float(batch.weights[place, view]) - 0.1) / 0.9
            for column in range(10):
                smooth = 0.91 if column == label else 0.01
                expected = kept * smooth + (1 - kept) / 10
                assert batch.targets[place, view, column].item() == pytest.approx(expected, abs=1e-6)


def test_wide_crop_has_the_images_of_soft_crop_with_hard_targets() -> None:
    raw = raw_batch(40)
    soft, wide = (make_pipeline(f"ResNet8-{part}-agmax")(raw, step=2) for part in ("soft_crop", "wide_crop"))
    assert torch.equal(wide.images, soft.images)
    assert wide.visible is not None and soft.visible is not None
    assert torch.equal(wide.visible, soft.visible)
    assert torch.equal(wide.targets, torch.eye(10)[raw.labels][:, None].expand(-1, 2, -1))
    assert torch.equal(wide.weights, torch.ones(40, 2))
    assert (soft.weights < 1).float().mean() > 0.9


def test_without_occlusion_a_batch_has_no_visible_fractions() -> None:
    assert make_pipeline("ResNet8-cutmix")(raw_batch(), step=0).visible is None


def test_soft_crop_comes_after_erasing() -> None:
    """The square of cutout moves with its image, by the offsets that the white image without it shows."""
    settings: dict[str, Any] = {"augment__soft__background": 0.0, "train__seed": 3}
    raw = white(100)
    erased = make_pipeline("ResNet8-cutout", augment__crop="none", train__seed=3)(raw, step=0)
    batch = make_pipeline("ResNet8-soft_crop-cutout", **settings)(raw, step=0)
    plain = make_pipeline("ResNet8-soft_crop", **settings)(raw, step=0)
    for place in range(100):
        image, moved, shown = erased.images[place, 0], batch.images[place, 0], plain.images[place, 0]
        rows, columns = ((shown != 0).all(0).any(axis).nonzero().flatten() for axis in (1, 0))
        if not len(rows):
            continue
        down = 32 - len(rows) if rows[0] == 0 else len(rows) - 32
        right = 32 - len(columns) if columns[0] == 0 else len(columns) - 32
        assert torch.equal(moved, on_a_canvas(image, down, right, torch.zeros(3)))


def assert_mixed(mixed: Batch, plain: Batch) -> None:
    """Find each row's partner and ratio; they are a permutation and one ratio, and weights are mixed by the same."""
    count, num_views, _ = mixed.targets.shape
    for view in range(num_views):
        rows, weights = plain.targets[:, view].double(), plain.weights[:, view].double()
        met, ratios = [], []
        for place in range(count):
            gaps = []
            for other in range(count):
                direction = rows[place] - rows[other]
                step = mixed.targets[place, view].double() - rows[other]
                ratio = float(step @ direction / (direction @ direction)) if other != place else 1.0
                gaps.append((float((rows[other] + ratio * direction - mixed.targets[place, view]).abs().max()), ratio))
            partner = min(range(count), key=lambda other: gaps[other][0])
            assert gaps[partner][0] < 1e-6
            met.append(partner)
            if partner == place:
                continue
            ratios.append(gaps[partner][1])
            expected = ratios[-1] * weights[place] + (1 - ratios[-1]) * weights[partner]
            assert mixed.weights[place, view].item() == pytest.approx(float(expected), abs=1e-5)
        assert sorted(met) == list(range(count))
        assert len(ratios) >= 6
        assert ratios == pytest.approx([ratios[0]] * len(ratios), abs=1e-4)
        assert 0.02 < ratios[0] < 0.98  # else the partner would hardly be seen


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_soft_crops_mix_rows_and_weights_by_one_ratio(mix: str) -> None:
    raw = raw_batch(10)._replace(labels=torch.arange(10))
    settings: dict[str, Any] = {"augment__cutmix__p": 1.0}
    plain = make_pipeline("ResNet8-soft_crop-agmax")(raw, step=1)
    mixed = make_pipeline(f"ResNet8-soft_crop-{mix}-agmax", **settings)(raw, step=1)
    torch.testing.assert_close(mixed.targets.sum(-1), torch.ones(10, 2))
    assert_mixed(mixed, plain)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_wide_crops_keep_weights_of_one(mix: str) -> None:
    batch = make_pipeline(f"ResNet8-wide_crop-{mix}-agmax", augment__cutmix__p=1.0)(raw_batch(), step=1)
    assert torch.equal(batch.weights, torch.ones(12, 2))
    torch.testing.assert_close(batch.targets.sum(-1), torch.ones(12, 2))
