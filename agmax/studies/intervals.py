"""What seeds say about two methods: pure functions of a metric [R] or of right/wrong bits [R, M], in pairs.

R seeds, each the same for every variant (data subset, initial weights, order), and M test images, the same for all.
A difference is first - second, in the unit of the metric. What cannot be said with so few seeds is None.
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
MIN_SEEDS_FOR_P = 6  # with five, the smallest sign-flip p there is, 2 / 2^5, lies above ALPHA
MAX_SEEDS_EXACT = 40  # two lists of 2^20 sums


class Interval(NamedTuple):
    """A 95 % interval, in the unit of the metric."""

    low: float
    high: float


class Mean(NamedTuple):
    """A mean over seeds, in the unit of the metric; with one seed nothing but the mean is known."""

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
    p_value: float | None  # of the two-sided sign-flip test, None under six seeds


class Equivalence(NamedTuple):
    """Whether the true difference lies within a margin."""

    margin: float  # in the unit of the metric
    is_equivalent: bool
    p_value: float | None  # the larger of the two one-sided ones, None under six seeds


class McNemar(NamedTuple):
    """The images on which two models differ."""

    num_only_first_right: int
    num_only_second_right: int
    p_value: float


def mean_interval(values: Values) -> Mean:
    """Return the mean of values [R] and its 95 % t interval; [9, 10, 11] gives 10 with 10 -+ 4.303 / sqrt(3).

    The interval speaks of other seeds on the same test images, not of other images. Values that are all equal
    give one of no width.

    Raises:
        DataError: there is no value, or one that is not a finite number.
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
    """Return the mean of first - second, both [R], with its 95 % t interval and, from six seeds on, its p-value.

    Raises:
        DataError: the variants are not paired, or a value is not a finite number.
    """
    differences = _differences(first, second)
    has_p_value = len(differences) >= MIN_SEEDS_FOR_P
    return PairedDifference(
        *mean_interval(differences), p_value=_sign_flip_p_value(differences) if has_p_value else None
    )


def _sign_flip_p_value(differences: Values) -> float:
    """Return the share of all 2^R patterns of signs whose sum is as far from 0 as the observed (Fisher 1935).

    The observed pattern and its mirror image count: [1, 2, 3, 4, 5, 6] gives 2 / 64, and [-1, 2, 3, 4, 5, 6] 4 / 64.
    Exact up to 40 seeds: the sums of the first half are looked up among the sorted sums of the second. With more,
    the normal distribution that the sum then follows, of variance sum(differences^2).
    """
    observed, scale = abs(float(differences.sum())), float(np.abs(differences).sum())
    if scale == 0:
        return 1.0
    num_seeds = len(differences)
    if num_seeds > MAX_SEEDS_EXACT:
        return float(2 * stats.norm.sf(observed / np.sqrt(np.square(differences).sum())))
    left = _signed_sums(differences[: num_seeds // 2])
    right = np.sort(_signed_sums(differences[num_seeds // 2 :]))
    at_least = observed - 1e-9 * scale  # sums that are equal on paper differ by rounding
    num_above = int((len(right) - np.searchsorted(right, at_least - left)).sum())
    return min(1.0, num_above / 2.0 ** (num_seeds - 1))


def _signed_sums(values: Values) -> Values:
    """Return the sums of values [n] under all patterns of signs: [2^n]."""
    sums: Values = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values adjusted for their number, in the order given (Holm 1979); None stays, and does not count.

    The smallest of n is multiplied by n, the next by n - 1, and so on, none below the one before it, none above 1:
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
    """Return from how many seeds on a sign-flip p-value can fall under 0.05 after Holm over so many tests.

    The smallest of R seeds is 2 / 2^R: 6 for one test, 7 for three, 8 for four.
    """
    return max(MIN_SEEDS_FOR_P, 1 + math.ceil(math.log2(num_tests / ALPHA)))


def equivalence_test(first: Values, second: Values, *, margin: float) -> Equivalence:
    """Return whether the difference of two variants [R] lies within -+ margin: two one-sided t tests (Schuirmann 1987).

    It does where both reject at 5 %, which is where the 90 % t interval lies inside the margin; one seed never
    shows it. The margin, in the unit of the metric and above 0, is to be stated before the numbers are seen.

    Raises:
        DataError: the variants are not paired, or a value is not a finite number.
    """
    assert margin > 0, margin
    mean, _, standard_error, _, num_seeds = mean_interval(_differences(first, second))
    if standard_error is None:
        return Equivalence(margin, False, None)
    room = margin - abs(mean)  # to the nearer end, whose test has the larger p
    p_value = float(stats.t.sf(room / standard_error, num_seeds - 1)) if standard_error else float(room <= 0)
    return Equivalence(margin, p_value < ALPHA, p_value if num_seeds >= MIN_SEEDS_FOR_P else None)


def bootstrap_interval(
    first: Bits, second: Bits, *, generator: np.random.Generator, num_resamples: int = 2000
) -> Interval:
    """Return the 95 % percentile interval of the difference in error, in points, over seeds and test images.

    `first` and `second` [R, M] say which images each seed gets right. Each resample draws R seeds and, apart
    from that, M images, the same for all seeds and both variants (the pigeonhole bootstrap, Owen 2007).

    It is for seeing how far a difference rests on these images, of which the t interval knows nothing; it is no test.
    Simulated with 8 seeds, a nominal 95 % cover the true difference in 99 % of cases where the noise of training
    strikes image by image (error 9 %, two trainings disagree on 8 % of images), in 98 % where the variants are good at
    different images (the t interval: 72 %), but in 88-90 % where whole seeds differ, and there with 3 seeds
    in about 75 %. One seed leaves the images alone to be drawn.

    Raises:
        DataError: the variants are not paired.
    """
    _check_pairs(first, second)
    num_seeds, num_images = first.shape
    worse = second.astype(np.int64) - first  # [R, M]: 1 where first alone is wrong, -1 where second alone is
    patterns, num_alike = np.unique(worse, axis=1, return_counts=True)  # [R, U], [U]: images that answer alike
    by_seed, by_image = np.full(num_seeds, 1 / num_seeds), num_alike / num_images
    sums = [
        generator.multinomial(num_seeds, by_seed) @ patterns @ generator.multinomial(num_images, by_image)
        for _ in range(num_resamples)
    ]
    ends = np.quantile(np.array(sums) * (100 / worse.size), [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(*ends.tolist())


def mcnemar(first: Bits, second: Bits) -> McNemar:
    """Compare two models by the images [M] that each gets right: exact two-sided test (McNemar 1947; binomial, 1/2).

    It speaks of these two models on other images, not of the methods that trained them. Of 6 images on which they
    differ, 0 against 6 gives p = 2 / 64, 1 against 5 gives 14 / 64.

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
    """Say in words what the numbers say about the first method beside the second.

    The 95 % interval decides: "better" or "worse" where it excludes 0, else "not distinguishable", which is not "the
    same": only a test of equivalence can say "equivalent within <margin>", and it says so beside a difference too,
    which is then real but small. A p-value after Holm that does not follow the interval is told.
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
    """Return first - second [R] of two variants that can be compared."""
    _check_pairs(first, second)
    _check_finite(first)
    _check_finite(second)
    return first - second


def _check_finite(values: Values) -> None:
    """Raise a DataError unless there is a value, and all are finite."""
    if not len(values) or not np.isfinite(values).all():
        raise DataError(
            "cannot average seeds",
            where=f"values {values.tolist()}",
            why="at least one finite number is needed, and no other",
            remedy="leave a broken seed out of both variants",
        )


def _check_pairs(first: Values | Bits, second: Values | Bits) -> None:
    """Raise a DataError unless two variants have the same seeds and images, and at least one of each."""
    if first.shape != second.shape or not first.size:
        raise DataError(
            "cannot compare two variants",
            where=f"shapes {first.shape} and {second.shape}",
            why="they are compared seed by seed and image by image",
            remedy="keep what both have",
        )
