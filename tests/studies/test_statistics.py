"""Statistics of paired seeds equal scipy's and numbers worked by hand, and keep their promises when simulated."""

import math
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from agmax.core.errors import DataError
from agmax.studies.intervals import (
    Equivalence,
    Interval,
    PairedDifference,
    bootstrap_interval,
    equivalence_test,
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
    seeds_needed,
    verdict,
)

Array = np.ndarray[Any, Any]


def variants(num_seeds: int, *, seed: int = 0, shift: float = 0.0) -> tuple[Array, Array]:
    """Return the errors of two variants in percent, with luck that they share and luck of their own."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(10, 0.3, num_seeds)
    first, second = (shared + rng.normal(0, 0.2, num_seeds) for _ in range(2))
    return first + shift, second


def difference_of(differences: list[float]) -> PairedDifference:
    """Return the paired difference of a variant and one of zeros."""
    return paired_difference(np.array(differences), np.zeros(len(differences)))


# Means and t intervals


def test_the_mean_and_interval_of_9_10_11_are_those_worked_by_hand() -> None:
    made = mean_interval(np.array([9.0, 10.0, 11.0]))
    assert made[:3] == pytest.approx((10, 1, 1 / math.sqrt(3)))
    assert made.interval == pytest.approx((10 - 4.302653 / math.sqrt(3), 10 + 4.302653 / math.sqrt(3)), abs=1e-6)
    assert made.num_seeds == 3


@pytest.mark.parametrize("num_seeds", [2, 3, 8, 20])
def test_a_paired_difference_has_the_interval_of_scipys_paired_t_test(num_seeds: int) -> None:
    first, second = variants(num_seeds, shift=0.2)
    made, oracle = paired_difference(first, second), stats.ttest_rel(first, second)
    assert made.mean == pytest.approx((first - second).mean())
    assert made.mean / made.standard_error == pytest.approx(oracle.statistic)
    assert made.interval == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    assert made.std == pytest.approx(made.standard_error * math.sqrt(num_seeds))


def test_one_seed_has_a_mean_and_nothing_else() -> None:
    assert difference_of([-0.5]) == PairedDifference(-0.5, None, None, None, 1, None)


def test_seeds_that_agree_give_an_interval_of_no_width() -> None:
    assert difference_of([0.25] * 3) == PairedDifference(0.25, 0, 0, Interval(0.25, 0.25), 3, None)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [1.0, -math.inf, 2.0]])
def test_only_finite_numbers_are_averaged(values: list[float]) -> None:
    for call in (mean_interval, lambda array: paired_difference(array, array)):
        with pytest.raises(DataError, match="cannot "):
            call(np.array(values))


def test_variants_that_are_not_paired_are_refused() -> None:
    three, four = np.zeros(3), np.zeros(4)
    bits = np.zeros((2, 5), dtype=bool)
    for call in (
        lambda: paired_difference(three, four),
        lambda: paired_difference(three[:1], four),  # would be spread over all of them
        lambda: equivalence_test(three[:1], four, margin=1.0),
        lambda: bootstrap_interval(bits, bits[:1], generator=np.random.default_rng(0)),
        lambda: bootstrap_interval(bits[:, :0], bits[:, :0], generator=np.random.default_rng(0)),
        lambda: mcnemar(bits[0], bits[0, :1]),
    ):
        with pytest.raises(DataError, match="cannot compare two variants"):
            call()


# The sign-flip test


@pytest.mark.parametrize(
    ("differences", "patterns"),
    [
        ([1, 2, 3, 4, 5, 6], 2),
        ([-1, 2, 3, 4, 5, 6], 4),
        ([0, 2, 3, 4, 5, 6], 4),  # a difference of 0 has either sign
        ([1, 1, 1, 1, 1, -1], 14),  # any one of six, all or none, and the mirror images
        ([1, -1, 1, -1, 1, -1], 64),
        ([0, 0, 0, 0, 0, 0], 64),
    ],
)
def test_sign_flip_p_values_worked_by_hand(differences: list[float], patterns: int) -> None:
    assert difference_of(differences).p_value == patterns / 64


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_seeds", [6, 7, 10])
def test_the_p_value_is_that_of_scipys_exact_permutation_test(num_seeds: int, seed: int) -> None:
    first, second = variants(num_seeds, seed=seed, shift=0.1)
    oracle = stats.permutation_test(
        (first, second), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )
    assert paired_difference(first, second).p_value == oracle.pvalue


@pytest.mark.parametrize("seed", range(6))
def test_sums_that_tie_on_paper_tie_in_the_p_value(seed: int) -> None:
    hundredths = np.random.default_rng(seed).integers(-3, 5, 9)
    sums = [sum(s * int(d) for s, d in zip(signs, hundredths, strict=True)) for signs in product((1, -1), repeat=9)]
    fraction = Fraction(sum(abs(total) >= abs(int(hundredths.sum())) for total in sums), 2**9)
    assert paired_difference(9.7 + hundredths / 100, np.full(9, 9.7)).p_value == float(fraction)


@pytest.mark.parametrize("num_tests", range(1, 30))
def test_from_how_many_seeds_on_a_p_value_after_holm_can_be_significant(num_tests: int) -> None:
    """The clearest of all outcomes, beside others that show nothing."""

    def smallest(num_seeds: int) -> float:
        clearest = difference_of([1.0] * num_seeds).p_value
        adjusted = holm([clearest, *[1.0] * (num_tests - 1)])[0]
        return 1.0 if adjusted is None else adjusted

    needed = seeds_needed(num_tests)
    assert smallest(needed) < 0.05 <= smallest(needed - 1)


def test_there_is_no_p_value_under_six_seeds() -> None:
    assert [difference_of([1.0] * n).p_value for n in (1, 2, 5, 6)] == [None, None, None, 2 / 2**6]
    first = np.linspace(0.99, 1.01, 6)
    assert equivalence_test(first[:5], first[:5] - 0.1, margin=1.0).p_value is None
    assert equivalence_test(first, first - 0.1, margin=1.0).p_value is not None


def test_a_p_value_of_20_seeds_is_exact() -> None:
    powers = [-1.0, -2.0, *(2.0**n for n in range(2, 20))]  # whose signed sums are all different
    assert difference_of(powers).p_value == 2 * 4 / 2**20  # either sign of the 1 and the 2, and the mirror images


@pytest.mark.parametrize("num_negative", [0, 3, 15])
@pytest.mark.parametrize("num_seeds", [33, 40])
def test_up_to_40_equal_differences_have_the_exact_p_value_of_the_sign_test(num_seeds: int, num_negative: int) -> None:
    differences = np.full(num_seeds, 0.1)
    differences[:num_negative] *= -1
    p_value = difference_of(list(np.random.default_rng(0).permutation(differences))).p_value
    assert p_value == pytest.approx(stats.binomtest(num_negative, num_seeds).pvalue, rel=1e-12)


@pytest.mark.parametrize("shift", [0.1, 0.2])
def test_beyond_40_seeds_the_p_value_is_close_to_the_fraction_of_random_signs(shift: float) -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(shift, 1, 60)
    signs = rng.choice([-1.0, 1.0], (60_000, 60))
    fraction = (np.abs(signs @ differences) >= abs(differences.sum())).mean()
    assert 0.01 < fraction < 0.5
    assert difference_of(list(differences)).p_value == pytest.approx(fraction, abs=0.01)
    assert difference_of([0.0] * 41).p_value == 1


# What must not matter


def test_swapping_the_variants_changes_only_the_sign() -> None:
    first, second = variants(8, shift=0.15)
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert (other.mean, other.std, other.p_value) == pytest.approx((-one.mean, one.std, one.p_value))
    assert other.interval == pytest.approx((-one.interval.high, -one.interval.low))
    assert equivalence_test(first, second, margin=0.3) == pytest.approx(equivalence_test(second, first, margin=0.3))


def test_shift_and_order_do_not_matter_and_scale_carries_through() -> None:
    first, second = variants(9, shift=0.15)
    plain = paired_difference(first, second)
    moved = paired_difference(first[::-1] + 5, second[::-1] + 5)
    scaled = paired_difference(first / 100, second / 100)
    assert np.hstack(moved) == pytest.approx(np.hstack(plain))
    assert np.hstack(scaled[:4]) * 100 == pytest.approx(np.hstack(plain[:4]))
    assert scaled.p_value == plain.p_value
    assert equivalence_test(first / 100, second / 100, margin=0.003).p_value == pytest.approx(
        equivalence_test(first, second, margin=0.3).p_value
    )


# Holm


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.01, None, 0.04], [0.02, None, 0.04]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.7, 0.6], [1, 1]),
        ([0.03], [0.03]),
        ([None, None], [None, None]),
        ([], []),
    ],
)
def test_holms_p_values_worked_by_hand(p_values: list[float | None], adjusted: list[float | None]) -> None:
    made = holm(p_values)
    assert [p is None for p in made] == [p is None for p in adjusted]
    assert [p for p in made if p is not None] == pytest.approx([p for p in adjusted if p is not None])


# Equivalence


@pytest.mark.parametrize("margin", [0.05, 0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("shift", [-0.1, 0.0, 0.1])
def test_equivalence_is_two_one_sided_t_tests_and_the_90_percent_interval(shift: float, margin: float) -> None:
    first, second = variants(10, shift=shift)
    made = equivalence_test(first, second, margin=margin)
    above = stats.ttest_rel(first + margin, second, alternative="greater").pvalue
    below = stats.ttest_rel(first - margin, second, alternative="less").pvalue
    low, high = stats.ttest_rel(first, second).confidence_interval(0.90)
    assert made.p_value == pytest.approx(max(above, below))
    assert made.is_equivalent == (-margin < low and high < margin)
    assert made.margin == margin


def test_equivalence_is_both_shown_and_not_shown_by_the_margins_above() -> None:
    first, second = variants(10)
    assert [equivalence_test(first, second, margin=m).is_equivalent for m in (0.1, 0.5)] == [False, True]


def test_few_seeds_can_be_equivalent_but_one_never_is() -> None:
    three = np.array([0.01, -0.01, 0.02])
    assert equivalence_test(three, np.zeros(3), margin=0.2) == Equivalence(0.2, True, None)
    assert equivalence_test(three[:1], np.zeros(1), margin=0.2) == Equivalence(0.2, False, None)


def test_differences_that_agree_are_equivalent_only_inside_the_margin() -> None:
    made = [equivalence_test(np.full(6, value), np.zeros(6), margin=0.25) for value in (0.0, -0.125, 0.25, -0.5)]
    assert [m.is_equivalent for m in made] == [True, True, False, False]
    assert [m.p_value for m in made] == [0, 0, 1, 1]


# Words


WIDE, TIGHT = [-0.5, 0.7, 0.1, -0.4], [-0.02, 0.03, 0.01, -0.01]
LOWER, MUCH_LOWER = [-0.12, -0.1, -0.11, -0.09], [-0.9, -0.8, -1.0, -0.9]


@pytest.mark.parametrize(
    ("differences", "words_of_an_error", "words_of_an_accuracy"),
    [
        ([-3.0], "too few seeds", "too few seeds"),
        (WIDE, "not distinguishable", "not distinguishable"),
        (TIGHT, "equivalent within 0.2", "equivalent within 0.2"),
        (LOWER, "better, yet equivalent within 0.2", "worse, yet equivalent within 0.2"),
        (MUCH_LOWER, "better", "worse"),
        ([-value for value in MUCH_LOWER], "worse", "better"),
        ([0.0, 0.0], "equivalent within 0.2", "equivalent within 0.2"),
    ],
)
def test_words_follow_numbers(differences: list[float], words_of_an_error: str, words_of_an_accuracy: str) -> None:
    difference = difference_of(differences)
    equivalence = equivalence_test(np.array(differences), np.zeros(len(differences)), margin=0.2)
    assert verdict(difference, lower_is_better=True, equivalence=equivalence) == words_of_an_error
    assert verdict(difference, lower_is_better=False, equivalence=equivalence) == words_of_an_accuracy


def test_without_a_margin_nothing_is_called_equivalent() -> None:
    words = [verdict(difference_of(d), lower_is_better=True) for d in (TIGHT, [0.0, 0.0], LOWER)]
    assert words == ["not distinguishable", "not distinguishable", "better"]


def test_an_interval_that_ends_at_zero_contains_zero() -> None:
    for interval in (Interval(-1.0, 0.0), Interval(0.0, 1.0)):
        difference = PairedDifference(0.5, 1.0, 0.2, interval, 8, 0.05)
        assert verdict(difference, lower_is_better=True) == "not distinguishable"


def test_a_p_value_after_holm_that_contradicts_the_interval_is_named() -> None:
    difference = difference_of(MUCH_LOWER)
    words = [verdict(difference, lower_is_better=True, adjusted_p_value=p) for p in (0.05, 0.0625, 0.0501)]
    assert words[0] == "better"
    assert words[1] == "better by the interval, not by the p-value after Holm (0.0625)"
    assert words[2].endswith("(0.0501)")
    assert verdict(difference_of(WIDE), lower_is_better=True, adjusted_p_value=0.3) == "not distinguishable"


# Promises, simulated


def simulated(count: int, num_seeds: int, *, shift: float, seed: int) -> list[PairedDifference]:
    """Compare two variants `count` times; `shift` is the true difference in standard deviations of the differences."""
    noise = np.random.default_rng(seed).normal(0, math.sqrt(0.5), (count, 2, num_seeds))
    return [paired_difference(first + shift, second) for first, second in noise]


@pytest.mark.parametrize(("num_seeds", "attainable"), [(8, 2 * 6 / 2**8), (12, 2 * 102 / 2**12)])
def test_without_a_difference_one_in_twenty_is_significant_and_the_interval_contains_zero(
    num_seeds: int, attainable: float
) -> None:
    """p comes in steps of 2 / 2^R, so p < 0.05 happens in 4.69 % (R = 8) and 4.98 % (R = 12) of cases, exactly."""
    made = simulated(4000, num_seeds, shift=0.0, seed=num_seeds)
    false_alarms = np.mean([difference.p_value < 0.05 for difference in made])
    words = [verdict(difference, lower_is_better=True) for difference in made]
    assert 0.035 <= false_alarms <= 0.065
    assert false_alarms == pytest.approx(attainable, abs=3 * math.sqrt(attainable / 4000))
    assert 0.93 <= words.count("not distinguishable") / len(words) <= 0.97
    assert min(words.count("better"), words.count("worse")) > 0.015 * len(words)


@pytest.mark.parametrize("num_seeds", [3, 8])
def test_the_interval_contains_the_true_difference_in_95_percent_of_cases(num_seeds: int) -> None:
    intervals = np.array([made.interval for made in simulated(3000, num_seeds, shift=0.7, seed=1)])
    assert 0.93 <= np.mean((intervals[:, 0] <= 0.7) & (intervals[:, 1] >= 0.7)) <= 0.97


def test_a_difference_of_1_2_standard_deviations_is_found_with_12_seeds() -> None:
    made = simulated(1000, 12, shift=-1.2, seed=2)
    assert np.mean([difference.p_value < 0.05 for difference in made]) >= 0.8
    assert np.mean([verdict(difference, lower_is_better=True) == "better" for difference in made]) >= 0.8


def test_holm_keeps_one_false_alarm_in_twenty_for_the_whole_family() -> None:
    """Four contrasts: two of no difference, one real one, and one without a p-value."""
    noise = np.random.default_rng(3).normal(size=(1500, 5, 10))
    raw, adjusted = [], []
    for reference, same, also_same, better, _ in noise:
        made = [paired_difference(variant, reference).p_value for variant in (same, also_same, better - 4)]
        raw.append(min(made[:2]))
        adjusted.append(min(holm([*made, None])[:2]))  # type: ignore[type-var]
    assert np.mean(np.array(raw) < 0.05) > 0.07  # without Holm there are too many
    assert np.mean(np.array(adjusted) < 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


def test_a_margin_at_the_true_difference_is_called_equivalent_in_one_of_twenty() -> None:
    noise = np.random.default_rng(4).normal(size=(3000, 8)) * 0.2
    made = [equivalence_test(1 + differences, np.zeros(8), margin=1.0).is_equivalent for differences in noise]
    assert 0.035 <= np.mean(made) <= 0.065
