"""Policies: their tables against torchvision's, their draws against exact probabilities, their images against loops."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from agmax.augment import AutoAugment, Key, color, operations, policies
from agmax.augment import transforms as slots
from agmax.augment.operations import CODES, NAMES
from agmax.config.schema import choices
from agmax.core.rng import generator
from helpers.augment import Augmentation, make_pipeline, random_images, sample_of
from helpers.operations import torchvision_answer

NUM_DRAWS = 100_000
FACTORS = ("Brightness", "Contrast", "Color", "Sharpness")
SIGNED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
TABLES = {
    "cifar10": v2.AutoAugmentPolicy.CIFAR10,
    "svhn": v2.AutoAugmentPolicy.SVHN,
    "imagenet": v2.AutoAugmentPolicy.IMAGENET,
}
Outcome = tuple[str, float]
Distribution = dict[Any, float]


def learned(table: str) -> list[Any]:
    """Return torchvision's sub-policies, each two of (operation, probability, level or None)."""
    return list(v2.AutoAugment(TABLES[table])._policies)


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_the_learned_tables_are_torchvisions(table: str) -> None:
    codes, probabilities, levels = policies._learned(table)
    assert codes.shape == probabilities.shape == levels.shape == (25, 2)
    for pair, expected in enumerate(learned(table)):
        for place, (name, probability, level) in enumerate(expected):
            assert NAMES[codes[pair, place]] == name
            assert probabilities[pair, place] == probability
            assert level is None or levels[pair, place] == level


def test_color_of_sub_policy_13_has_the_level_of_the_paper() -> None:
    """AgMax's program says 6, the paper and torchvision 8."""
    codes, probabilities, levels = policies._learned("cifar10")
    assert NAMES[codes[13, 1]] == "Color"
    assert (probabilities[13, 1], levels[13, 1]) == (0.2, 8)


def as_value(name: str, magnitude: float) -> float:
    """Return the value of an operation from torchvision's magnitude, as its kernels read it."""
    if name in FACTORS:
        return 1 + magnitude
    if name == "Solarize":
        return 255 * magnitude
    return float(int(magnitude)) if name in ("TranslateX", "TranslateY", "Posterize") else magnitude


SPACES: dict[str, tuple[Callable[[int, int], policies.Strength], Any, int]] = {
    "AutoAugment": (policies.torchvision_scale, v2.AutoAugment, 10),
    "RandAugment": (policies.torchvision_random, v2.RandAugment, 31),
    "TrivialAugment": (policies.torchvision_wide, v2.TrivialAugmentWide, 31),
}
SIZES = [(32, 32), (28, 28), (8, 8), (224, 224), (96, 64), (299, 331)]


def torchvision_levels(policy: str, name: str, height: int, width: int) -> tuple[list[float], bool]:
    """Return torchvision's magnitude at each level, and whether it can be negative; 0 where it has none."""
    _, transform, num_levels = SPACES[policy]
    magnitudes, has_sign = transform._AUGMENTATION_SPACE[name]
    drawn = magnitudes(num_levels, height, width)
    return [0.0] * num_levels if drawn is None else [float(number) for number in drawn], has_sign


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("policy", SPACES)
def test_levels_mean_what_they_mean_to_torchvision(policy: str, height: int, width: int) -> None:
    make, transform, _ = SPACES[policy]
    strength = make(height, width)
    for name in transform._AUGMENTATION_SPACE:
        magnitudes, has_sign = torchvision_levels(policy, name, height, width)
        code = CODES[name]
        assert strength.has_sign[code] == has_sign
        for sign in (1, -1) if has_sign else (1,):
            values = strength.centre[code] + sign * strength.magnitude[code]
            expected = [as_value(name, sign * magnitude) for magnitude in magnitudes]
            if magnitudes != [0.0] * len(magnitudes):
                assert values.tolist() == expected, name


@pytest.mark.parametrize("policy", SPACES)
def test_every_operation_of_every_strength_equals_torchvisions_pixels(policy: str) -> None:
    make, transform, _ = SPACES[policy]
    images = random_images(1, 3, 48, 64, seed=7)
    strength = make(48, 64)
    for name in transform._AUGMENTATION_SPACE:
        magnitudes, has_sign = torchvision_levels(policy, name, 48, 64)
        signs = np.array([1, -1] if has_sign else [1])
        code = CODES[name]
        values = (strength.centre[code] + signs[:, None] * strength.magnitude[code]).ravel()
        results = operations.applied(images.repeat(len(values), 1, 1, 1), np.full(len(values), code), values)
        signed = [sign * magnitude for sign in signs.tolist() for magnitude in magnitudes]
        for result, magnitude in zip(results, signed, strict=True):
            expected = v2.AutoAugment()._apply_image_or_video_transform(
                images[0], name, magnitude, interpolation=v2.InterpolationMode.NEAREST, fill={}
            )
            assert torch.equal(result, expected), f"{name} {magnitude}"


def agmax_value(name: str, level: int, height: int, width: int) -> float:
    """Return what the AgMax program's formulas say (its table of magnitudes), moves in whole pixels."""
    formulas: dict[str, Callable[[], float]] = {
        "ShearX": lambda: 0.03 * level,
        "ShearY": lambda: 0.03 * level,
        "TranslateX": lambda: round(0.045 * level * width),
        "TranslateY": lambda: round(0.045 * level * height),
        "Rotate": lambda: 3 * level,
        "Solarize": lambda: 25.6 * level,
        "Posterize": lambda: int(4 + 0.4 * level),
    }
    return formulas.get(name, lambda: 0.1 + 0.18 * level if name in FACTORS else 0.0)()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 28), (8, 8), (224, 224), (96, 64)])
def test_levels_mean_what_they_mean_to_the_agmax_program(height: int, width: int) -> None:
    strength = policies.agmax_scale(height, width)
    for name in NAMES:
        code = CODES[name]
        assert strength.has_sign[code] == (name in SIGNED)
        values = strength.centre[code] + strength.magnitude[code]
        expected = [agmax_value(name, level, height, width) for level in range(11)]
        assert values.tolist() == pytest.approx(expected, abs=1e-12), name


def test_levels_of_the_agmax_program_by_hand() -> None:
    """At 32 pixels 0.045 * m * 32 = 1.44 m; half of 0.1 to 1.9 is 1.0; int(4 + 0.4 m) from 4 to 8."""
    strength = policies.agmax_scale(32, 32)
    by_hand = {
        "TranslateX": [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 14],
        "Posterize": [4, 4, 4, 5, 5, 6, 6, 6, 7, 7, 8],
        "Brightness": [0.1, 0.28, 0.46, 0.64, 0.82, 1.0, 1.18, 1.36, 1.54, 1.72, 1.9],
        "Rotate": [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30],
        "Solarize": [0, 25.6, 51.2, 76.8, 102.4, 128, 153.6, 179.2, 204.8, 230.4, 256],
        "ShearY": [0, 0.03, 0.06, 0.09, 0.12, 0.15, 0.18, 0.21, 0.24, 0.27, 0.3],
    }
    for name, expected in by_hand.items():
        assert strength.magnitude[CODES[name]].tolist() == pytest.approx(expected)
        assert strength.centre[CODES[name]] == 0


@pytest.mark.parametrize("size", [28, 32, 64, 96, 224])
@pytest.mark.parametrize("sign", [1, -1])
def test_fractions_of_a_pixel_move_an_image_as_far_as_pillow_moves_it(size: int, sign: int) -> None:
    image = random_images(1, 1, size, size)
    strength = policies.agmax_scale(size, size)
    for level in range(11):
        shift = sign * 0.045 * level * size
        for name, matrix in [("TranslateX", (1, 0, -shift, 0, 1, 0)), ("TranslateY", (1, 0, 0, 0, 1, -shift))]:
            moved = Image.fromarray(image[0, 0].numpy()).transform((size, size), Image.Transform.AFFINE, matrix)
            value = sign * strength.magnitude[CODES[name], level]
            result = operations.applied(image, np.array([CODES[name]]), np.array([value]))
            assert np.array_equal(result[0, 0].numpy(), np.array(moved))


def test_the_tables_are_the_choices_of_the_configuration() -> None:
    assert set(policies.AUTO_AUGMENT) == set(choices("augment.auto_augment.table"))
    assert set(policies.MAGNITUDES) == set(choices("augment.auto_augment.scale"))
    assert set(slots.POLICIES) == set(choices("augment.policy")) - {"none"}
    draws = {
        definition: policies.rand_augment(
            1000, 32, 32, definition=definition, num_ops=2, magnitude=9, rng=np.random.default_rng(0)
        )[0]
        for definition in choices("augment.rand_augment.definition")
    }
    assert {name: CODES["Invert"] in codes for name, codes in draws.items()} == {"torchvision": False, "agmax": True}


# --- what is drawn, and how often ------------------------------------------------------------------------------------


def outcomes(codes: Any, values: Any) -> list[list[Outcome]]:
    """Return what happens to each image, as tuples that can be counted; a value counts where the operation has one."""
    has_value = {CODES[name] for name in (*SIGNED, *FACTORS, "Solarize", "Posterize")}
    rounded = np.round(values, 4) + 0.0  # no -0.0
    return [
        [(NAMES[code], value if code in has_value else 0.0) for code, value in zip(*image, strict=True)]
        for image in zip(codes.tolist(), rounded.tolist(), strict=True)
    ]


def assert_drawn_from(expected: Distribution, drawn: Iterable[Any]) -> None:
    """Compare counts with exact probabilities by chi-square; rare outcomes are taken together."""
    counts = Counter(drawn)
    total = sum(counts.values())
    assert sum(expected.values()) == pytest.approx(1)
    impossible = [outcome for outcome in counts if expected.get(outcome, 0) == 0]
    assert impossible == []
    common = [outcome for outcome, probability in expected.items() if probability * total >= 10]
    rare = [outcome for outcome, probability in expected.items() if 0 < probability * total < 10]
    observed = [counts[outcome] for outcome in common]
    ideal = [expected[outcome] * total for outcome in common]
    if sum(expected[outcome] for outcome in rare) * total >= 5:
        observed.append(sum(counts[outcome] for outcome in rare))
        ideal.append(sum(expected[outcome] for outcome in rare) * total)
    else:
        observed[0] += sum(counts[outcome] for outcome in rare)
        ideal[0] += sum(expected[outcome] for outcome in rare) * total
    assert stats.chisquare(observed, ideal).pvalue > 1e-3


def assert_independent(first: Any, second: Any) -> None:
    """Compare the joint counts of two things with the products of their own, by chi-square."""
    table = stats.contingency.crosstab(first, second).count
    assert min(table.shape) > 1
    assert stats.chi2_contingency(table, correction=False).pvalue > 1e-3


def spread(distribution: Distribution, outcome: Any, probability: float) -> None:
    distribution[outcome] = distribution.get(outcome, 0.0) + probability


def signed_values(scale: str, name: str, level: int | None, size: int) -> list[float]:
    """Return the values that an operation can have at a level, equally often; worked out from the two programs."""
    if level is None:
        return [0.0]
    if scale == "agmax":
        value, has_sign = agmax_value(name, level, size, size), name in SIGNED
        return [value, -value] if has_sign else [value]
    magnitudes, has_sign = torchvision_levels("AutoAugment", name, size, size)
    return [as_value(name, sign * magnitudes[level]) for sign in ((1, -1) if has_sign else (1,))]


@pytest.mark.parametrize("scale", ["agmax", "torchvision"])
@pytest.mark.parametrize("table", TABLES)
def test_auto_augment_draws_pairs_operations_and_signs_as_often_as_its_table_says(table: str, scale: str) -> None:
    """The whole joint distribution: 25 pairs, each operation or none by its probability, each value with its signs."""
    expected: Distribution = {}
    for pair in learned(table):
        both: list[list[tuple[Outcome, float]]] = []
        for name, probability, level in pair:
            values = signed_values(scale, name, level, 32)
            happening = [((name, round(value, 4) + 0.0), probability / len(values)) for value in values]
            both.append([(("Identity", 0.0), 1 - probability), *happening])
        for (first, p), (second, q) in itertools.product(*both):
            spread(expected, (first, second), p * q / 25)
    codes, values = policies.auto_augment(
        NUM_DRAWS, 32, 32, policy=table, magnitudes=scale, rng=np.random.default_rng(0)
    )
    assert codes.shape == values.shape == (NUM_DRAWS, 2)
    assert_drawn_from(expected, map(tuple, outcomes(codes, values)))


def test_rand_augment_draws_every_pair_of_operations_with_replacement() -> None:
    """14 operations, of which nine have a sign: 23 outcomes at each of the two places, and all 529 pairs of them."""
    one: Distribution = {}
    for name in v2.RandAugment._AUGMENTATION_SPACE:
        magnitudes, has_sign = torchvision_levels("RandAugment", name, 32, 32)
        values = [as_value(name, sign * magnitudes[9]) for sign in ((1, -1) if has_sign else (1,))]
        for value in values:
            has_value = any(magnitudes)
            spread(one, (name, round(value, 4) if has_value else 0.0), 1 / 14 / len(values))
    assert len(one) == 23
    codes, values = policies.rand_augment(
        NUM_DRAWS, 32, 32, definition="torchvision", num_ops=2, magnitude=9, rng=np.random.default_rng(0)
    )
    pairs = {(first, second): one[first] * one[second] for first in one for second in one}
    assert_drawn_from(pairs, map(tuple, outcomes(codes, values)))


@pytest.mark.parametrize("magnitude", [0, 30])
def test_rand_augment_takes_its_magnitude(magnitude: int) -> None:
    codes, values = policies.rand_augment(
        400, 32, 32, definition="torchvision", num_ops=3, magnitude=magnitude, rng=np.random.default_rng(0)
    )
    assert codes.shape == (400, 3)
    expected = {"Rotate": {0.0} if magnitude == 0 else {30.0, -30.0}, "Posterize": {8.0 if magnitude == 0 else 4.0}}
    for name, wanted in expected.items():
        assert set((values[codes == CODES[name]] + 0.0).round(4).tolist()) == wanted


AGMAX_NAMES = list(v2.AutoAugment._AUGMENTATION_SPACE)


def agmax_draws(count: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return policies.rand_augment(count, 32, 32, definition="agmax", num_ops=2, magnitude=9, rng=rng)


def test_rand_augment_of_agmax_leaves_half_and_draws_every_pair_for_the_others() -> None:
    assert len(AGMAX_NAMES) == 14
    expected = dict.fromkeys(itertools.product(AGMAX_NAMES, AGMAX_NAMES), 0.5 / 14**2)
    expected["Identity", "Identity"] = 0.5
    codes, _ = agmax_draws(NUM_DRAWS)
    assert_drawn_from(expected, ((NAMES[first], NAMES[second]) for first, second in codes.tolist()))


def test_rand_augment_of_agmax_draws_levels_from_1_to_10() -> None:
    one: Distribution = {}
    for name, level in itertools.product(AGMAX_NAMES, range(1, 11)):
        value = round(agmax_value(name, level, 32, 32), 4)
        for sign in (1, -1) if name in SIGNED else (1,):
            spread(one, (name, sign * value), 1 / 140 / (2 if name in SIGNED else 1))
    codes, values = agmax_draws(NUM_DRAWS)
    changed = codes[:, 0] != CODES["Identity"]
    for place in (0, 1):
        assert_drawn_from(one, (image[place] for image in outcomes(codes[changed], values[changed])))


def test_the_two_levels_of_agmaxs_rand_augment_are_independent() -> None:
    codes, values = agmax_draws(10 * NUM_DRAWS)
    turned = (codes == CODES["Rotate"]).all(axis=1)
    degrees = values[turned]
    assert len(degrees) > 2000
    assert_independent(np.abs(degrees[:, 0]) > 15, np.abs(degrees[:, 1]) > 15)
    assert_independent(degrees[:, 0] > 0, degrees[:, 1] > 0)


def test_trivial_augment_draws_every_operation_and_strength() -> None:
    expected: Distribution = {}
    for name in v2.TrivialAugmentWide._AUGMENTATION_SPACE:
        magnitudes, has_sign = torchvision_levels("TrivialAugment", name, 32, 32)
        for magnitude in magnitudes:
            for sign in (1, -1):
                value = as_value(name, sign * magnitude if has_sign else magnitude) if any(magnitudes) else 0.0
                spread(expected, (name, round(value, 4) + 0.0), 1 / 14 / 31 / 2)
    codes, values = policies.trivial_augment(NUM_DRAWS, 32, 32, rng=np.random.default_rng(0))
    assert codes.shape == (NUM_DRAWS, 1)
    assert_drawn_from(expected, (image[0] for image in outcomes(codes, values)))


def jitter(strengths: tuple[float, float, float], count: int = NUM_DRAWS) -> tuple[Any, Any]:
    brightness, contrast, saturation = strengths
    rng = np.random.default_rng(0)
    return policies.color_jitter(count, brightness=brightness, contrast=contrast, saturation=saturation, rng=rng)


def test_color_jitter_draws_uniform_factors_in_each_of_six_orders() -> None:
    codes, factors = jitter((0.4, 0.2, 1.5))
    orders = itertools.permutations(["Brightness", "Contrast", "Color"])
    assert_drawn_from(dict.fromkeys(orders, 1 / 6), (tuple(NAMES[code] for code in image) for image in codes.tolist()))
    by_name = []
    for name, low, high in [("Brightness", 0.6, 1.4), ("Contrast", 0.8, 1.2), ("Color", 0.0, 2.5)]:
        numbers = factors[codes == CODES[name]]
        assert len(numbers) == NUM_DRAWS
        assert stats.kstest(numbers, stats.uniform(low, high - low).cdf).pvalue > 1e-3
        by_name.append(numbers > (low + high) / 2)
    for first, second in itertools.combinations(by_name, 2):
        assert_independent(first, second)
    assert_independent(by_name[0], codes[:, 0])


def test_color_jitter_of_no_strength_is_left_out() -> None:
    codes, _ = jitter((0.4, 0.0, 0.0), 50)
    for image in codes.tolist():
        assert sorted(NAMES[code] for code in image) == ["Brightness", "Identity", "Identity"]


# --- independence ----------------------------------------------------------------------------------------------------


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Lay a table whose 25 pairs of operations are all different and certain; return what reads the pair off."""
    firsts = ("Identity", "Equalize", "Invert", "AutoContrast", "Rotate")
    seconds = ("Brightness", "Contrast", "Color", "Sharpness", "Solarize")
    pairs = list(itertools.product(firsts, seconds))
    text = ",".join(f"{first} 1 1 / {second} 1 1" for first, second in pairs)
    monkeypatch.setitem(policies.AUTO_AUGMENT, "marked", text)
    number = {(CODES[first], CODES[second]): place for place, (first, second) in enumerate(pairs)}
    return lambda codes: np.array([number[first, second] for first, second in np.asarray(codes).tolist()])


def draw_marked(count: int, rng: np.random.Generator) -> tuple[Any, Any]:
    return policies.auto_augment(count, 32, 32, policy="marked", magnitudes="agmax", rng=rng)


def test_sub_policies_are_uniform_and_neighbours_independent(marked: Callable[[Any], Any]) -> None:
    chosen = marked(draw_marked(NUM_DRAWS, np.random.default_rng(0))[0])
    assert_drawn_from(dict.fromkeys(range(25), 1 / 25), chosen.tolist())
    assert_independent(chosen[0::2], chosen[1::2])
    assert_independent(chosen[0:-2:4], chosen[2::4])


def test_views_steps_and_seeds_choose_independently(marked: Callable[[Any], Any]) -> None:
    def chosen(seed: int, step: int) -> Any:
        key = Key(seed, step)
        views = [AutoAugment("marked").draw(NUM_DRAWS, (3, 32, 32), key.of_view(view))[0] for view in (0, 1)]
        return np.stack([marked(codes) for codes in views], axis=1)  # [N, V]

    first, later, other = chosen(0, 5), chosen(0, 6), chosen(1, 5)
    assert np.array_equal(first, chosen(0, 5))
    assert_independent(first[:, 0], first[:, 1])
    assert_independent(first[:, 0], later[:, 0])
    assert_independent(first[:, 1], later[:, 0])
    assert_independent(first[:, 0], other[:, 0])


def test_coins_and_signs_are_independent_of_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 25 equal pairs each operation happens half the time, with a sign: no part tells of another or a neighbour."""
    monkeypatch.setitem(policies.AUTO_AUGMENT, "coins", ",".join(["ShearX .5 4 / Rotate .5 9"] * 25))
    codes, values = policies.auto_augment(
        NUM_DRAWS, 32, 32, policy="coins", magnitudes="agmax", rng=np.random.default_rng(0)
    )
    happens, is_negative = codes != CODES["Identity"], values < 0
    parts = [happens[:, 0], happens[:, 1], is_negative[:, 0], is_negative[:, 1]]
    for part in parts:
        assert stats.binomtest(int(part.sum()), NUM_DRAWS, 0.5).pvalue > 1e-3
        assert_independent(part[0::2], part[1::2])
    for first, second in itertools.combinations(parts, 2):
        assert_independent(first, second)
        assert_independent(first[0::2], second[1::2])


@pytest.mark.parametrize("definition", ["torchvision", "agmax"])
def test_rand_augments_neighbours_are_independent(definition: str) -> None:
    codes, _ = policies.rand_augment(
        NUM_DRAWS, 32, 32, definition=definition, num_ops=2, magnitude=9, rng=np.random.default_rng(0)
    )
    assert_independent(codes[0::2, 0], codes[1::2, 0])
    assert_independent(codes[0::2, 1], codes[1::2, 0])


# --- through the pipeline --------------------------------------------------------------------------------------------

POLICIES = ["auto_augment", "rand_augment", "trivial_augment"]
OFF = {"augment__crop": "none", "augment__flip": False}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_gives_views_steps_and_seeds_different_images(policy: str) -> None:
    sample = sample_of()
    make = make_pipeline(f"ResNet8-{policy}-agmax", **OFF)
    other = make_pipeline(f"ResNet8-{policy}-agmax", **OFF, train__seed=1)
    first, again, later = (make(sample, step=step).images for step in (5, 5, 6))
    assert torch.equal(first, again)
    for one, two in [(first[:, 0], first[:, 1]), (first, later), (first, other(sample, step=5).images)]:
        differing = (one != two).flatten(1).any(1)
        assert differing.float().mean() > 0.5


def normalised(image: Tensor, make: Augmentation) -> Tensor:
    """Bring a uint8 image to the network's numbers as torchvision's ToTensor and Normalize do."""
    floats = transforms.ToTensor()(image.permute(1, 2, 0).numpy())
    return transforms.Normalize(make.mean.tolist(), make.std.tolist())(floats)


def policy_rng(step: int, view: int) -> np.random.Generator:
    return generator(0, "augment", step, "policy", view)


@pytest.mark.parametrize("method", ["", "-agmax"])
@pytest.mark.parametrize(("table", "scale"), [("cifar10", "agmax"), ("imagenet", "torchvision"), ("svhn", "agmax")])
def test_auto_augmented_batches_equal_torchvision_image_by_image(table: str, scale: str, method: str) -> None:
    sample = sample_of(16)
    make = make_pipeline(
        f"ResNet8-no_basic_augment-auto_augment{method}",
        augment__auto_augment__table=table,
        augment__auto_augment__scale=scale,
    )
    met = set()
    for step in range(6):
        batch = make(sample, step=step)
        for view in range(batch.images.shape[1]):
            codes, values = policies.auto_augment(
                16, 32, 32, policy=table, magnitudes=scale, rng=policy_rng(step, view)
            )
            for place, image in enumerate(sample.images):
                for code, value in zip(codes[place].tolist(), values[place].tolist(), strict=True):
                    image = torchvision_answer(image, NAMES[code], value)
                    met.add(NAMES[code])
                assert torch.equal(batch.images[place, view], normalised(image, make))
    assert len(met) >= 9


def test_the_policy_sees_the_cropped_and_mirrored_image() -> None:
    """Crop and flip come before it: the same crops without the policy, then torchvision's operations."""
    sample = sample_of(16)
    plain, make = make_pipeline("ResNet8"), make_pipeline("ResNet8-trivial_augment")
    cropped = plain(sample, step=3).images[:, 0]
    pixels = (cropped * plain.std[:, None, None] + plain.mean[:, None, None]) * 255
    codes, values = policies.trivial_augment(16, 32, 32, rng=policy_rng(3, 0))
    for place, image in enumerate(pixels.round().to(torch.uint8)):
        changed = torchvision_answer(image, NAMES[codes[place, 0]], float(values[place, 0]))
        assert torch.equal(make(sample, step=3).images[place, 0], normalised(changed, make))


JITTER = {f"augment__color_jitter__{name}": 0.4 for name in ("brightness", "contrast", "saturation")}
ADJUST = {
    "Brightness": functional.adjust_brightness,
    "Contrast": functional.adjust_contrast,
    "Color": functional.adjust_saturation,
}


def test_color_jitter_equals_torchvisions_adjustments_in_the_drawn_order() -> None:
    sample = sample_of(60)
    make = make_pipeline("ResNet8-no_basic_augment", **JITTER)
    batch = make(sample, step=2)
    codes, factors = policies.color_jitter(
        60, brightness=0.4, contrast=0.4, saturation=0.4, rng=generator(0, "augment", 2, "color jitter", 0)
    )
    expected = []
    for place, image in enumerate(sample.images):
        for code, factor in zip(codes[place].tolist(), factors[place].tolist(), strict=True):
            image = ADJUST[NAMES[code]](image, factor)
        expected.append(image)
    levels = (batch.images[:, 0] * make.std[:, None, None] + make.mean[:, None, None]) * 255
    assert torch.equal(levels.round(), torch.stack(expected).float())
    assert (levels.round() != sample.images).float().mean() > 0.5


def test_color_jitter_follows_the_policy() -> None:
    sample = sample_of(16)
    make = make_pipeline("ResNet8-no_basic_augment-trivial_augment", augment__color_jitter__brightness=0.4)
    codes, values = policies.trivial_augment(16, 32, 32, rng=policy_rng(0, 0))
    jitters, factors = policies.color_jitter(
        16, brightness=0.4, contrast=0.0, saturation=0.0, rng=generator(0, "augment", 0, "color jitter", 0)
    )
    batch = make(sample, step=0)
    for place, image in enumerate(sample.images):
        factor = float(factors[place][jitters[place] == CODES["Brightness"]][0])
        changed = torchvision_answer(image, NAMES[codes[place, 0]], float(values[place, 0]))
        expected = normalised(functional.adjust_brightness(changed, factor), make)
        assert torch.equal(batch.images[place, 0], expected)


PRINCIPAL = [(-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203)]
DEVIATIONS = (0.2175, 0.0188, 0.0045)


def test_lighting_adds_principal_colours_before_normalising() -> None:
    """Channel c of the image on the scale 0 to 1 gets the sum over k of V[c][k] * alpha_k * lambda_k."""
    sample = sample_of(20)
    make = make_pipeline("ResNet8-no_basic_augment-agmax", augment__lighting__std=0.1)
    batch = make(sample, step=4)
    for view in (0, 1):
        amounts = generator(0, "augment", 4, "lighting", view).normal(0, 0.1, (20, 3))
        for place, image in enumerate(sample.images):
            lit = image.double() / 255
            for channel in range(3):
                light = sum(PRINCIPAL[channel][k] * amounts[place, k] * DEVIATIONS[k] for k in range(3))
                lit[channel] += float(light)
            expected = functional.normalize(lit, make.mean.tolist(), make.std.tolist()).float()
            torch.testing.assert_close(batch.images[place, view], expected, atol=1e-5, rtol=1e-5)


def test_amounts_of_light_are_normal() -> None:
    amounts = color.lighting_amounts(NUM_DRAWS, std=0.1, rng=np.random.default_rng(0))
    assert amounts.shape == (NUM_DRAWS, 3)
    for k in range(3):
        assert stats.kstest(amounts[:, k].numpy(), stats.norm(0, 0.1).cdf).pvalue > 1e-3
    correlation = np.corrcoef(amounts.numpy().T)[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 4 / math.sqrt(NUM_DRAWS)
