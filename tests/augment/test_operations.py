"""Operations on batches against torchvision's and Pillow's on one image at a time."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from agmax.augment import operations
from agmax.augment.operations import CODES, NAMES, OPERATIONS
from helpers.operations import FACTORS, KINDS, apply_one, assert_same, random_image

# --- every operation, value and kind of image ------------------------------------------------------------------------


def allowed_values(name: str, height: int, width: int) -> st.SearchStrategy[float]:
    """Draw from all that policies can ask for, and beyond; round numbers, where ties are, as often as others."""

    def between(low: float, high: float, step: float) -> st.SearchStrategy[float]:
        some = st.floats(low, high, allow_subnormal=False)
        return some | st.integers(round(low / step), round(high / step)).map(lambda count: count * step)

    spans = {
        "ShearX": between(-0.99, 0.99, 0.01),
        "ShearY": between(-0.99, 0.99, 0.01),
        "TranslateX": st.integers(-width, width).map(float),
        "TranslateY": st.integers(-height, height).map(float),
        "Rotate": between(-180, 180, 4.5) | st.sampled_from([-180.0, -90.0, 90.0, 180.0]),
        "Solarize": between(0, 255, 1),
        "Posterize": st.integers(0, 8).map(float),
    }
    return spans.get(name, between(0, 2, 0.01) if name in FACTORS else st.just(0.0))


class Case(NamedTuple):
    """A batch [B, C, H, W] in which every operation [B] occurs, each with a value [B]."""

    images: Tensor
    names: list[str]
    values: list[float]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sides = draw(st.sampled_from([st.integers(8, 40)] * 11 + [st.sampled_from([64, 97, 224])]))
    channels, height, width = draw(st.sampled_from([1, 3])), draw(sides), draw(sides)
    names = draw(st.permutations(NAMES))
    values = [draw(allowed_values(name, height, width)) for name in names]
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=len(names), max_size=len(names)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Case(torch.stack([random_image(kind, (channels, height, width), rng) for kind in kinds]), names, values)


@settings(deadline=None, max_examples=150)
@given(case=cases())
def test_a_mixed_batch_equals_torchvision_on_each_image_alone(case: Case) -> None:
    codes = np.array([CODES[name] for name in case.names])
    results = operations.apply_operations(case.images, codes, np.array(case.values))
    assert results.shape == case.images.shape
    assert results.dtype == torch.uint8
    for result, image, name, value in zip(results, case.images, case.names, case.values, strict=True):
        assert_same(result, image, name, value)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Identity"])
def test_a_hundred_strengths_of_one_operation_equal_torchvision(name: str) -> None:
    """Evenly spaced from the weakest to the strongest, so that round factors and right angles are among them."""
    height, width = 20, 31
    low, high = {
        "ShearX": (-0.99, 0.99),
        "ShearY": (-0.99, 0.99),
        "TranslateX": (-width, width),
        "TranslateY": (-height, height),
        "Rotate": (-180, 180),
        "Solarize": (0, 255),
        "Posterize": (0, 8),
    }.get(name, (0, 2))
    values = np.linspace(low, high, 101)
    values = values.round() if name.startswith("Translate") or name == "Posterize" else values
    rng = np.random.default_rng(0)
    images = torch.stack([random_image("any levels", (3, height, width), rng) for _ in values])
    results = operations.apply_operations(images, np.full(101, CODES[name]), values)
    for result, image, value in zip(results, images, values.tolist(), strict=True):
        assert_same(result, image, name, value)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 9), (3, 20, 31), (3, 31, 20), (1, 28, 28), (3, 224, 224)])
def test_right_angles_equal_torchvision_whatever_the_shape(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    for degrees in (-270.0, -180.0, -90.0, 90.0, 180.0, 270.0):
        image = random_image("any levels", shape, rng)
        assert_same(apply_one(image, "Rotate", degrees), image, "Rotate", degrees)


# --- Pillow ----------------------------------------------------------------------------------------------------------


def in_pillow(image: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    pixels = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
    changed = torch.from_numpy(np.array(change(Image.fromarray(pixels))))
    return changed[None] if len(image) == 1 else changed.permute(2, 0, 1)


EXACT_IN_PILLOW: dict[str, tuple[list[float], Callable[[Image.Image, float], Image.Image]]] = {
    "Equalize": ([0], lambda image, _: ImageOps.equalize(image)),
    "Invert": ([0], lambda image, _: ImageOps.invert(image)),
    "Posterize": (list(range(1, 9)), lambda image, bits: ImageOps.posterize(image, int(bits))),
    "Solarize": ([0, 1, 76.8, 128, 254, 255], ImageOps.solarize),
}
"""Operations with integer arithmetic in Pillow too. Its geometry and blends round differently from torchvision's."""


def sample_images(seed: int) -> list[Tensor]:
    """Make images of every kind, gray and colored, of few pixels and many: Equalize depends on their number."""
    rng = np.random.default_rng(seed)
    shapes = [(1, 8, 8), (3, 9, 12), (3, 32, 32), (1, 28, 28), (3, 64, 48)]
    return [random_image(kind, shape, rng) for kind in KINDS for shape in shapes for _ in range(4)]


@pytest.mark.parametrize("name", EXACT_IN_PILLOW)
def test_integer_operations_equal_pillow(name: str) -> None:
    values, change = EXACT_IN_PILLOW[name]
    for image in sample_images(seed=1):
        for value in values:
            expected = in_pillow(image, lambda pixels, value=value: change(pixels, value))  # type: ignore[misc]
            assert torch.equal(apply_one(image, name, value), expected)


def test_auto_contrast_equals_pillow_within_one_level() -> None:
    """Pillow multiplies by 255 / (high - low) where torchvision divides by (high - low) / 255; both cut off."""
    for image in sample_images(seed=2):
        gap = apply_one(image, "AutoContrast").int() - in_pillow(image, ImageOps.autocontrast).int()
        assert gap.abs().max() <= 1


ENHANCERS = {
    "Brightness": ImageEnhance.Brightness,
    "Color": ImageEnhance.Color,
    "Contrast": ImageEnhance.Contrast,
    "Sharpness": ImageEnhance.Sharpness,
}


@pytest.mark.parametrize("name", ENHANCERS)
def test_blends_are_within_two_levels_of_pillows(name: str) -> None:
    """Pillow rounds the mean gray, the blurred and the blended level; torchvision cuts some of them off."""
    for image in sample_images(seed=3):
        for factor in (0.1, 0.46, 1.0, 1.36, 1.9):
            expected = in_pillow(image, lambda pixels, factor=factor: ENHANCERS[name](pixels).enhance(factor))  # type: ignore[misc]
            gap = apply_one(image, name, factor).int() - expected.int()
            assert gap.abs().max() <= 2


# --- one batch -------------------------------------------------------------------------------------------------------


def random_case(count: int, shape: tuple[int, int, int], seed: int = 0) -> tuple[Tensor, Any, Any]:
    """Make images [count, C, H, W], and for each an operation and a value that it can have."""
    rng = np.random.default_rng(seed)
    _, height, width = shape
    codes = rng.integers(len(NAMES), size=count)
    draw = {
        "TranslateX": lambda: rng.integers(-width, width + 1),
        "TranslateY": lambda: rng.integers(-height, height + 1),
        "Posterize": lambda: rng.integers(0, 9),
        "Rotate": lambda: rng.uniform(-180, 180),
        "Solarize": lambda: rng.uniform(0, 255),
        "ShearX": lambda: rng.uniform(-1, 1),
        "ShearY": lambda: rng.uniform(-1, 1),
    }
    values = np.array([float(draw.get(NAMES[code], lambda: rng.uniform(0, 2))()) for code in codes])
    images = torch.stack([random_image(str(rng.choice(KINDS)), shape, rng) for _ in range(count)])
    return images, codes, values


SHAPES = [(3, 32, 32), (1, 8, 13), (3, 47, 30)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_result_does_not_depend_on_the_other_images_of_the_batch(shape: tuple[int, int, int]) -> None:
    images, codes, values = random_case(90, shape)
    batch = operations.apply_operations(images, codes, values)
    rng = np.random.default_rng(3)
    for size in (90, 31, 2):
        chosen = rng.permutation(90)[:size]
        part = operations.apply_operations(images[chosen], codes[chosen], values[chosen])
        assert torch.equal(part, batch[chosen])


@pytest.mark.parametrize("shape", SHAPES)
def test_images_one_by_one_give_what_the_batch_gives(shape: tuple[int, int, int]) -> None:
    images, codes, values = random_case(90, shape, seed=1)
    assert set(codes.tolist()) == set(CODES.values())
    batch = operations.apply_operations(images, codes, values)
    for place in range(90):
        alone = operations.apply_operations(
            images[place : place + 1], codes[place : place + 1], values[place : place + 1]
        )
        assert torch.equal(alone[0], batch[place])


def count_calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Note for each operation the number of images of each of its calls."""
    calls: dict[str, list[int]] = {name: [] for name in NAMES}

    def counting(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def call(images: Tensor, values: Tensor) -> Tensor:
            calls[name].append(len(images))
            return function(images, values)

        return call

    for name, function in list(OPERATIONS.items()):
        monkeypatch.setitem(OPERATIONS, name, counting(name, function))
    return calls


def test_512_images_need_one_call_of_each_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    images, codes, values = random_case(512, (3, 16, 16))
    calls = count_calls(monkeypatch)
    operations.apply_operations(images, codes, values)
    assert calls == {name: [int((codes == CODES[name]).sum())] for name in NAMES}


def test_the_input_images_are_not_changed() -> None:
    images, codes, values = random_case(90, (3, 12, 12))
    before = images.clone(), codes.copy(), values.copy()
    operations.apply_operations(images, codes, values)
    assert torch.equal(images, before[0])
    assert np.array_equal(codes, before[1]) and np.array_equal(values, before[2])


def test_a_batch_without_operations_is_not_changed() -> None:
    images, _, values = random_case(7, (3, 12, 12))
    assert torch.equal(operations.apply_operations(images, np.full(7, CODES["Identity"]), values), images)


@pytest.mark.parametrize("layout", ["every second image", "a crop", "channels last"])
def test_images_may_have_any_memory_layout(layout: str) -> None:
    images, codes, values = random_case(90, (3, 24, 24), seed=4)
    laid = {
        "every second image": torch.stack([images, 255 - images], dim=1)[:, 0],
        "a crop": torch.nn.functional.pad(images, (3, 5, 2, 1))[..., 2:-1, 3:-5],
        "channels last": images.to(memory_format=torch.channels_last),
    }[layout]
    assert torch.equal(laid, images) and not laid.is_contiguous()
    assert torch.equal(
        operations.apply_operations(laid, codes, values), operations.apply_operations(images, codes, values)
    )


# --- by hand ---------------------------------------------------------------------------------------------------------


def gray_image(rows: list[list[int]]) -> Tensor:
    return torch.tensor([rows], dtype=torch.uint8)


def test_equalize_spreads_four_levels_evenly() -> None:
    """255 pixels each of 10, 11, 12 and 200: the step is (1020 - 255) // 255 = 3 pixels a level.

    Below the levels lie 0, 255, 510 and 765 pixels, so they become (0 + 1) // 3 = 0, 256 // 3 = 85, 511 // 3 = 170
    and 766 // 3 = 255.
    """
    image = torch.tensor([10, 11, 12, 200], dtype=torch.uint8).repeat(255).view(1, 30, 34)
    expected = torch.tensor([0, 85, 170, 255], dtype=torch.uint8).repeat(255).view(1, 30, 34)
    assert torch.equal(apply_one(image, "Equalize"), expected)


def test_equalize_leaves_an_image_of_fewer_than_255_pixels() -> None:
    """Its step is (64 - 1) // 255 = 0."""
    image = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    assert torch.equal(apply_one(image, "Equalize"), image)


def test_channels_are_equalized_and_stretched_each_by_its_own_levels() -> None:
    """One channel holds 100 and 185, which become black and full; one holds 50 alone, which stays."""
    two = torch.tensor([100, 185], dtype=torch.uint8).repeat(288).view(24, 24)
    one = torch.full((24, 24), 50, dtype=torch.uint8)
    far = torch.where(two == 100, 0, 255).to(torch.uint8)
    for name in ("Equalize", "AutoContrast"):
        assert torch.equal(apply_one(torch.stack([two, one, two]), name), torch.stack([far, one, far]))


@pytest.mark.parametrize(
    ("name", "value", "levels", "expected"),
    [
        ("Posterize", 3, [255, 224, 223, 31, 32], [224, 224, 192, 0, 32]),
        ("Posterize", 8, [255, 1], [255, 1]),
        ("Posterize", 0, [255, 1], [0, 0]),
        ("Solarize", 128, [127, 128, 0, 255], [127, 127, 0, 0]),
        ("Solarize", 127.5, [127, 128], [127, 127]),
        ("Solarize", 256, [0, 255], [0, 255]),  # the weakest of the AgMax program; torchvision refuses it
        ("Invert", 0, [0, 255, 100], [255, 0, 155]),
        ("Brightness", 1.5, [0, 100, 101, 200], [0, 150, 151, 255]),
        ("Contrast", 0, [0, 10, 20, 40], [17, 17, 17, 17]),  # the mean is 17.5
        ("Contrast", 2, [0, 10, 20, 40], [0, 2, 22, 62]),  # twice the level less 17.5
        ("AutoContrast", 0, [50, 60, 100, 135], [0, 30, 150, 255]),  # three times the level less 50
    ],
)
def test_levels_equal_those_computed_by_hand(name: str, value: float, levels: list[int], expected: list[int]) -> None:
    assert apply_one(gray_image([levels]), name, value).flatten().tolist() == expected


def test_color_moves_between_gray_and_twice_the_distance_from_it() -> None:
    """The gray of (200, 100, 50) is 0.2989 * 200 + 0.587 * 100 + 0.114 * 50 = 124.18, cut off 124."""
    pixel = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 4)
    for factor, expected in [(0.0, [124, 124, 124]), (1.0, [200, 100, 50]), (2.0, [255, 76, 0]), (0.5, [162, 112, 87])]:
        assert apply_one(pixel, "Color", factor)[:, 2, 2].tolist() == expected


def test_sharpness_blends_the_middle_with_its_neighbourhood() -> None:
    """The mean around the middle is (5 * 130 + 8 * 26) / 13 = 66, half-way to it lies 98; the border stays."""
    image = gray_image([[26, 26, 26], [26, 130, 26], [26, 26, 26]])
    for factor, middle in [(0.0, 66), (0.5, 98), (1.0, 130), (2.0, 194)]:
        expected = image.clone()
        expected[0, 1, 1] = middle
        assert torch.equal(apply_one(image, "Sharpness", factor), expected)


def test_translate_moves_right_and_down_and_fills_with_black() -> None:
    image = gray_image([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    assert apply_one(image, "TranslateX", 3).tolist() == [[[0, 0, 0, 1, 2], [0, 0, 0, 6, 7]]]
    assert apply_one(image, "TranslateX", -4).tolist() == [[[5, 0, 0, 0, 0], [10, 0, 0, 0, 0]]]
    assert apply_one(image, "TranslateY", 1).tolist() == [[[0, 0, 0, 0, 0], [1, 2, 3, 4, 5]]]
    assert not apply_one(image, "TranslateX", 5).any()


@pytest.mark.parametrize("amount", [0.5, -0.5, 0.25])
def test_shear_turns_about_the_top_left_corner(amount: float) -> None:
    """The row whose middle is y + 0.5 below the top shows what lies amount * (y + 0.5) to the right; the first stays.

    With 0.5 that is 0.25, 0.75, 1.25, 1.75: 0, 1, 1, 2 pixels. ShearY does the same to columns.
    """
    height, width = 6, 9
    image = random_image("any levels", (1, height, width), np.random.default_rng(0))
    expected = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            source = math.floor(x + 0.5 + amount * (y + 0.5))
            if 0 <= source < width:
                expected[0, y, x] = image[0, y, source]
    assert torch.equal(apply_one(image, "ShearX", amount), expected)
    assert torch.equal(expected[0, 0], image[0, 0])
    assert torch.equal(apply_one(image.mT.contiguous(), "ShearY", amount), expected.mT)


def test_rotate_turns_counter_clockwise_about_the_center() -> None:
    image = gray_image([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert apply_one(image, "Rotate", 90).tolist() == [[[3, 6, 9], [2, 5, 8], [1, 4, 7]]]
    assert apply_one(image, "Rotate", 180).tolist() == [[[9, 8, 7], [6, 5, 4], [3, 2, 1]]]


@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color", "Sharpness"])
def test_a_factor_of_one_changes_nothing(name: str) -> None:
    image = random_image("any levels", (3, 17, 22), np.random.default_rng(0))
    assert torch.equal(apply_one(image, name, 1.0), image)


def test_gray_images_have_no_color_to_change() -> None:
    image = random_image("any levels", (1, 17, 22), np.random.default_rng(0))
    assert torch.equal(apply_one(image, "Color", 0.1), image)
