"""Policies: images, views, steps and seeds draw independently of one another."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from agmax.augment import AutoAugment, Key, policies
from agmax.augment.operations import CODES
from helpers.policies import NUM_DRAWS, assert_drawn_from, assert_independent


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
