"""Compare two methods over seeds: intervals and tests of a metric [R], or of correct/wrong bits [R, M].

R seeds are paired: a seed fixes data subset, initial weights and order for every variant. All have the same M test
images. A difference is first - second, in the unit of the metric. What needs more seeds than there are is None.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from agmax.core.errors import DataError

Values = NDArray[np.float64]
Bits = NDArray[np.bool_]

ALPHA = 0.05
MIN_SEEDS_FOR_P = 6  # with five, the smallest possible sign-flip p, 2 / 2^5, is above ALPHA
MAX_SEEDS_EXACT = 40  # two lists of 2^20 sums


class Interval(NamedTuple):
    """A 95 % interval, in the unit of the metric."""

    low: float
    high: float


class Mean(NamedTuple):
    """A mean over seeds, in the unit of the metric; with one seed, only the mean is known."""

    mean: float
    std: float | None  # of the sample, divided by R - 1
    standard_error: float | None  # of the mean
    interval: Interval | None  # Student's t with R - 1 degrees of freedom
    num_seeds: int


class PairedDifference(NamedTuple):
    """The difference first - second over paired seeds, in the unit of the metric."""

    mean: float
    std: float | None  # of the differences
    standard_error: float | None
    interval: Interval | None
    num_seeds: int
    p_value: float | None  # of the two-sided sign-flip test; None below six seeds


class Equivalence(NamedTuple):
    """The result of a test whether the true difference is within a margin."""

    margin: float  # in the unit of the metric
    is_equivalent: bool
    p_value: float | None  # the larger of the two one-sided p-values; None below six seeds


class McNemar(NamedTuple):
    """The images that only one of two models classifies correctly."""

    num_only_first_correct: int
    num_only_second_correct: int
    p_value: float


def mean_interval(values: Values) -> Mean:
    """Return the mean of values [R] and its 95 % t interval; [9, 10, 11] gives 10 with 10 -+ 4.303 / sqrt(3).

    The interval covers the variation over seeds on the same test images, not over images. Equal values give an
    interval of width 0.

    Raises:
        DataError: there is no value, or a value is not a finite number.
    """
    _check_finite(values)
    mean, num_seeds = float(values.mean()), len(values)
    if num_seeds == 1:
        return Mean(mean, None, None, None, 1)
    std = float(values.std(ddof=1))
    standard_error = std / num_seeds**0.5
    half_width = float(stats.t.ppf(1 - ALPHA / 2, num_seeds - 1)) * standard_error
    return Mean(mean, std, standard_error, Interval(mean - half_width, mean + half_width), num_seeds)


def paired_difference(first: Values, second: Values) -> PairedDifference:
    """Return the mean of first - second, both [R], with its 95 % t interval and, with six or more seeds, its p-value.

    Raises:
        DataError: the variants are not paired, or a value is not a finite number.
    """
    differences = _differences(first, second)
    has_p_value = len(differences) >= MIN_SEEDS_FOR_P
    return PairedDifference(
        *mean_interval(differences), p_value=_sign_flip_p_value(differences) if has_p_value else None
    )


def _sign_flip_p_value(differences: Values) -> float:
    """Return the fraction of all 2^R sign patterns whose sum is at least as far from 0 as the observed (Fisher 1935).

    The observed pattern and its negative count: [1, 2, 3, 4, 5, 6] gives 2 / 64, and [-1, 2, 3, 4, 5, 6] 4 / 64.
    Exact up to 40 seeds: the sums of the first half are looked up in the sorted sums of the second. With more seeds,
    the sum is approximately normal with variance sum(differences^2).
    """
    observed, scale = abs(float(differences.sum())), float(np.abs(differences).sum())
    if scale == 0:
        return 1.0
    num_seeds = len(differences)
    if num_seeds > MAX_SEEDS_EXACT:
        return float(2 * stats.norm.sf(observed / np.sqrt(np.square(differences).sum())))
    left = _signed_sums(differences[: num_seeds // 2])
    right = np.sort(_signed_sums(differences[num_seeds // 2 :]))
    at_least = observed - 1e-9 * scale  # equal sums may differ by rounding
    num_above = int((len(right) - np.searchsorted(right, at_least - left)).sum())
    return min(1.0, num_above / 2.0 ** (num_seeds - 1))


def _signed_sums(values: Values) -> Values:
    """Return the sums [2^n] of values [n] under all sign patterns."""
    sums: Values = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for multiple tests, in the given order (Holm 1979); None is kept and not counted.

    The smallest of n is multiplied by n, the next by n - 1, and so on; each is at least the one before and at most 1:
    0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02.
    """
    adjusted = list(p_values)
    ranked = sorted((p_value, place) for place, p_value in enumerate(p_values) if p_value is not None)
    highest = 0.0
    for rank, (p_value, place) in enumerate(ranked):
        highest = max(highest, min(1.0, (len(ranked) - rank) * p_value))
        adjusted[place] = highest
    return adjusted


def seeds_needed(num_tests: int) -> int:
    """Return the smallest number of seeds with which a sign-flip p-value can be below 0.05 after Holm.

    The smallest p-value of R seeds is 2 / 2^R: 6 seeds for one test, 7 for three, 8 for four.
    """
    return max(MIN_SEEDS_FOR_P, 1 + math.ceil(math.log2(num_tests / ALPHA)))


def equivalence_test(first: Values, second: Values, *, margin: float) -> Equivalence:
    """Test whether the difference of two variants [R] is within -+ margin: two one-sided t tests (Schuirmann 1987).

    The variants are equivalent where both tests reject at 5 %, that is where the 90 % t interval is inside the margin;
    one seed never shows equivalence. State the margin, in the unit of the metric and above 0, before seeing results.

    Raises:
        DataError: the variants are not paired, or a value is not a finite number.
    """
    assert margin > 0, margin
    mean, _, standard_error, _, num_seeds = mean_interval(_differences(first, second))
    if standard_error is None:
        return Equivalence(margin, False, None)
    room = margin - abs(mean)  # to the nearer end, which has the larger p
    p_value = float(stats.t.sf(room / standard_error, num_seeds - 1)) if standard_error else float(room <= 0)
    return Equivalence(margin, p_value < ALPHA, p_value if num_seeds >= MIN_SEEDS_FOR_P else None)


def bootstrap_interval(
    first: Bits, second: Bits, *, generator: np.random.Generator, num_resamples: int = 2000
) -> Interval:
    """Return the 95 % percentile interval of the difference in error, in points, over seeds and test images.

    `first` and `second` [R, M] are the bits of correctly classified images. Each resample draws R seeds and,
    independently, M images, the same for all seeds and both variants (pigeonhole bootstrap, Owen 2007).

    The interval shows how far a difference depends on these images, which the t interval does not; it is not a test.
    Coverage of the true difference in simulations with 8 seeds: 99 % where training noise affects single images
    (error 9 %, two trainings disagree on 8 % of images), 98 % where the variants are good at different images (the t
    interval: 72 %), but 88-90 % where seeds differ as a whole, and there about 75 % with 3 seeds. With one seed, only
    images are resampled.

    Raises:
        DataError: the variants are not paired.
    """
    _check_pairs(first, second)
    num_seeds, num_images = first.shape
    worse = second.astype(np.int64) - first  # [R, M]: 1 where only first is wrong, -1 where only second is
    patterns, counts = np.unique(worse, axis=1, return_counts=True)  # [R, U], [U]: images with the same pattern
    by_seed, by_image = np.full(num_seeds, 1 / num_seeds), counts / num_images
    sums = [
        generator.multinomial(num_seeds, by_seed) @ patterns @ generator.multinomial(num_images, by_image)
        for _ in range(num_resamples)
    ]
    ends = np.quantile(np.array(sums) * (100 / worse.size), [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(*ends.tolist())


def mcnemar(first: Bits, second: Bits) -> McNemar:
    """Compare two models by their bits of correct images [M]: exact two-sided test (McNemar 1947; binomial, 1/2).

    The test is about these two models on other images, not about their methods. Of 6 images on which they differ,
    0 against 6 gives p = 2 / 64, 1 against 5 gives 14 / 64.

    Raises:
        DataError: the models were not tested on the same images.
    """
    _check_pairs(first, second)
    num_first, num_second = int((first & ~second).sum()), int((second & ~first).sum())
    p_value = float(stats.binomtest(num_first, num_first + num_second).pvalue) if num_first + num_second else 1.0
    return McNemar(num_first, num_second, p_value)


def verdict(
    difference: PairedDifference,
    *,
    lower_is_better: bool,
    equivalence: Equivalence | None = None,
    adjusted_p_value: float | None = None,
) -> str:
    """Describe the comparison of the first method with the second in words.

    The 95 % interval decides: "better" or "worse" where it excludes 0, else "not distinguishable", which does not mean
    "the same". "equivalent within <margin>" needs a test of equivalence; beside a difference, it means that the
    difference is real but small. A p-value after Holm that contradicts the interval is added.
    """
    if difference.interval is None:
        return "too few seeds"
    low, high = difference.interval
    within = f"equivalent within {equivalence.margin:g}" if equivalence and equivalence.is_equivalent else ""
    if low <= 0 <= high:
        return within or "not distinguishable"
    words = "better" if (high < 0) == lower_is_better else "worse"
    if adjusted_p_value is not None and adjusted_p_value > ALPHA:
        words += f" by the interval, not by the p-value after Holm ({adjusted_p_value:.3g})"
    return f"{words}, yet {within}" if within else words


def _differences(first: Values, second: Values) -> Values:
    """Return first - second [R], after checking that the variants can be compared."""
    _check_pairs(first, second)
    _check_finite(first)
    _check_finite(second)
    return first - second


def _check_finite(values: Values) -> None:
    """Raise a DataError unless there are values and all are finite."""
    if not len(values) or not np.isfinite(values).all():
        raise DataError(
            "cannot average seeds",
            where=f"values {values.tolist()}",
            why="all values must be finite, and there must be one or more",
            remedy="Leave a failed seed out of both variants",
        )


def _check_pairs(first: Values | Bits, second: Values | Bits) -> None:
    """Raise a DataError unless two variants have the same seeds and images, one or more of each."""
    if first.shape != second.shape or not first.size:
        raise DataError(
            "cannot compare two variants",
            where=f"shapes {first.shape} and {second.shape}",
            why="variants are paired by seed and by image",
            remedy="Keep the seeds and images that both have",
        )
