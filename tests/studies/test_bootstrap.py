"""The bootstrap over seeds and images, and McNemar's test of the images on which two models differ."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from agmax.studies.intervals import (
    Interval,
    McNemar,
    bootstrap_interval,
    mcnemar,
)

Array = np.ndarray[Any, Any]


def trained(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    threshold: tuple[float, float],
    image: float,
    image_variant: float,
    seed: float,
) -> tuple[Array, Array, float]:
    """Return right/wrong bits [R, M] of two variants, and the true difference of their errors in points.

    An image is correct where a sum of normals is above the variant's threshold: ease of the image, ease for the
    variant, effect of the seed, and noise of variance 1 in every run; so the error is the normal integral.
    """
    total = math.sqrt(image**2 + image_variant**2 + seed**2 + 1)
    ease = rng.normal(0, image, shape[1])
    bits = [
        ease
        + rng.normal(0, image_variant, shape[1])
        + rng.normal(0, seed, (shape[0], 1))
        + rng.normal(0, 1, shape)
        + total * part
        > 0
        for part in threshold
    ]
    return bits[0], bits[1], 100 * float(np.subtract(*stats.norm.sf(threshold)))


@pytest.mark.parametrize(
    "effects",
    [{"image_variant": 0.0, "seed": 1.0}, {"image_variant": 2.0, "seed": 0.0}],
    ids=["seeds", "images"],
)
def test_the_bootstrap_is_that_of_indexing_with_drawn_seeds_and_images(effects: dict[str, float]) -> None:
    rng = np.random.default_rng(5)
    first, second, _ = trained(rng, (4, 60), threshold=(0.6, 0.9), image=1.0, **effects)
    means = []
    for _ in range(4000):
        drawn = np.ix_(rng.integers(0, 4, 4), rng.integers(0, 60, 60))
        means.append(100 * ((~first)[drawn].mean() - (~second)[drawn].mean()))
    made = bootstrap_interval(first, second, generator=rng, num_resamples=4000)
    assert made == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.2 * np.std(means))


def test_the_bootstrap_holds_the_error_of_first_minus_second_in_points() -> None:
    right, wrong = np.ones((3, 40), dtype=bool), np.zeros((3, 40), dtype=bool)
    assert bootstrap_interval(wrong, right, generator=np.random.default_rng(0)) == Interval(100, 100)
    assert bootstrap_interval(right, wrong, generator=np.random.default_rng(0)) == Interval(-100, -100)
    assert bootstrap_interval(right, right, generator=np.random.default_rng(0)) == Interval(0, 0)


def test_one_seed_is_bootstrapped_over_its_images() -> None:
    first, second = np.ones((1, 400), dtype=bool), np.ones((1, 400), dtype=bool)
    first[0, :100] = False  # error 25 %, with a standard error of 2.165
    low, high = bootstrap_interval(first, second, generator=np.random.default_rng(0), num_resamples=8000)
    assert (low, high) == pytest.approx((25 - 1.96 * 2.165, 25 + 1.96 * 2.165), abs=0.3)


def test_the_bootstrap_depends_on_the_generator_and_not_on_the_order_of_the_images() -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.random((5, 200)) < fraction for fraction in (0.9, 0.8))
    order = rng.permutation(200)
    one, again, reordered, other = (
        bootstrap_interval(first[:, images], second[:, images], generator=np.random.default_rng(seed))
        for seed, images in ((7, slice(None)), (7, slice(None)), (7, order), (8, slice(None)))
    )
    assert one == again == reordered != other


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 6), (1, 5), (5, 1), (3, 3), (2, 13), (0, 0), (40, 60)])
def test_mcnemar_is_the_binomial_test_of_the_images_on_which_two_models_differ(
    only_first: int, only_second: int
) -> None:
    first = np.array([True] * only_first + [False] * only_second + [True] * 9 + [False] * 4)
    second = np.array([False] * only_first + [True] * only_second + [True] * 9 + [False] * 4)
    differing = only_first + only_second
    tail = sum(math.comb(differing, k) for k in range(min(only_first, only_second) + 1))
    expected = min(1.0, 2 * tail / 2**differing)
    assert mcnemar(first, second) == McNemar(only_first, only_second, pytest.approx(expected))


@pytest.mark.parametrize(
    ("num_seeds", "effects", "lowest", "highest"),
    [
        (8, {"image_variant": 0.3, "seed": 0.02}, 0.97, 1.0),  # networks: noise affects single images
        (8, {"image_variant": 1.0, "seed": 0.02}, 0.95, 1.0),  # variants that are good at different images
        (8, {"image_variant": 0.0, "seed": 1.0}, 0.84, 0.93),  # seeds that differ as a whole
        (3, {"image_variant": 0.0, "seed": 1.0}, 0.66, 0.84),
    ],
)
def test_the_bootstrap_covers_as_its_docstring_says(
    num_seeds: int, effects: dict[str, float], lowest: float, highest: float
) -> None:
    rng, held = np.random.default_rng(6), []
    for _ in range(200):
        first, second, truth = trained(rng, (num_seeds, 300), threshold=(1.3, 1.35), image=2.0, **effects)
        low, high = bootstrap_interval(first, second, generator=rng, num_resamples=200)
        held.append(low <= truth <= high)
    assert lowest <= np.mean(held) <= highest
