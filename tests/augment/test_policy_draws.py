"""Policies: the frequencies of their draws against exact probabilities."""

import itertools
from typing import Any

import numpy as np
import pytest
from torchvision.transforms import v2

from agmax.augment import policies
from agmax.augment.operations import CODES, NAMES
from helpers.policies import (
    NUM_DRAWS,
    SIGNED,
    TABLES,
    Distribution,
    Outcome,
    agmax_value,
    as_value,
    assert_drawn_from,
    assert_independent,
    learned,
    outcomes,
    spread,
    torchvision_levels,
)


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
def test_auto_augment_draws_pairs_operations_and_signs_with_the_probabilities_of_its_policy(
    table: str, scale: str
) -> None:
    """The joint distribution: 25 pairs, each operation or none by its probability, each value with its signs."""
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
