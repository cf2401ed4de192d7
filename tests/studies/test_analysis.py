"""What is said of records: the numbers worked by hand, and what must not be compared."""

import json
import math
from typing import Any

import numpy as np
import pytest

from agmax.config import resolve
from agmax.config.resolve import Setting
from agmax.reports.formatting import sentence
from agmax.studies import records
from agmax.studies.analysis import Analysis, Comparison, Pair, VariantRuns, analyze, as_mapping

T_WITH_1_DEGREE, T_WITH_2_DEGREES = 12.7062, 4.3027
"""Student's 97.5 % quantiles, from a printed table."""

SIX = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
"""Differences of six seeds whose sign-flip p is 2 / 64."""


def record(error: float, **changed: Any) -> dict[str, Any]:
    """Make the record of a run with 8 test images, none of them correct."""
    made: dict[str, Any] = {
        "metrics": {"test": {"error": error, "top1": 100 - error, "top5": 99.0, "nll": error / 10, "ece": 0.01}},
        "best": {"best_on_test": {"epoch": 1, "error": error - 1, "top1": 101 - error}},
        "curves": {},
        "epochs": 2,
        "steps": 10,
        "samples_seen": 400,
        "code": "the code",
        "seconds": 60.0,
        "environment": {"torch": "2.14", "threads": 1, "precision": "fp32"},
        "num_test_images": 8,
        "labels": "the labels",
        "right": records.pack_bits(np.zeros(8, dtype=bool)),
    }
    return made | changed


def variant(name: str, errors: dict[int, float] | list[float], *settings: tuple[str, Any], **more: Any) -> VariantRuns:
    """Make a variant from the errors of its seeds, by seed or from seed 0 on."""
    by_seed = dict(enumerate(errors)) if isinstance(errors, list) else errors
    changed = more.pop("changed", {})
    config = resolve.resolve(
        "ResNet8", dataset="digits", settings=[Setting(key, value, "the test") for key, value in settings]
    ).config
    found = {seed: record(error, **changed) for seed, error in by_seed.items()}
    values: dict[str, Any] = {"about": "", "num_planned": len(found), "paper": {}} | more
    return VariantRuns(name=name, config=config, records=found, **values)


def said(*variants: VariantRuns, **more: Any) -> Analysis:
    return analyze("a study", variants, **{"metrics": ["error", "nll"], **more})


def only(found: list[Comparison]) -> Comparison:
    (comparison,) = found
    return comparison


def test_means_and_intervals_are_those_worked_by_hand() -> None:
    """9, 10, 11: mean 10, standard deviation 1, half a width of 4.3027 / sqrt(3)."""
    (summary,) = said(variant("a", [9.0, 10.0, 11.0])).variants
    mean = summary.means["final"]["error"]
    assert (mean.mean, mean.std, mean.num_seeds) == (10.0, 1.0, 3)
    assert mean.interval is not None
    assert mean.interval.low == pytest.approx(10 - T_WITH_2_DEGREES / math.sqrt(3), abs=1e-3)
    assert mean.interval.high == pytest.approx(10 + T_WITH_2_DEGREES / math.sqrt(3), abs=1e-3)
    assert summary.means["final"]["nll"].mean == pytest.approx(1.0)
    assert summary.means["best_on_test"]["error"].mean == 9.0


def test_seeds_are_paired_by_their_seeds_whatever_their_order() -> None:
    """9 - 10, 10 - 12, 11 - 12; paired as they were written it would be 9 - 12, 10 - 10, 11 - 12."""
    first, second = variant("a", {0: 9.0, 1: 10.0, 2: 11.0}), variant("b", {2: 12.0, 0: 10.0, 1: 12.0})
    difference = only(said(first, second, contrasts=[Pair("a", "b")]).contrasts).difference
    assert difference.mean == pytest.approx((-1 - 2 - 1) / 3)
    assert difference.std == pytest.approx(np.std([-1, -2, -1], ddof=1))
    assert difference.p_value is None  # under six seeds


def test_only_the_seeds_that_both_variants_have_are_compared() -> None:
    """Seeds 1 and 2: 10 - 13 and 11 - 16, mean -4; seeds 0 and 3 stand alone."""
    first = variant("a", {0: 90.0, 1: 10.0, 2: 11.0})
    second = variant("b", {1: 13.0, 2: 16.0, 3: 0.0})
    found = said(first, second, contrasts=[Pair("a", "b")])
    difference = only(found.contrasts).difference
    assert (difference.mean, difference.num_seeds) == (-4.0, 2)
    assert difference.interval is not None
    assert difference.interval.low == pytest.approx(-4 - T_WITH_1_DEGREE, abs=1e-3)
    assert found.variants[0].means["final"]["error"].mean == pytest.approx(
        37.0
    )  # a variant's own mean has all of its own


def test_variants_without_a_common_seed_are_not_compared_and_noted() -> None:
    found = said(variant("a", {0: 1.0}), variant("b", {1: 2.0}), contrasts=[Pair("a", "b")])
    assert not found.contrasts and not found.others
    assert any("a and b have no seed in common" in note for note in found.notes)


def test_holm_counts_the_contrasts_and_nothing_else() -> None:
    """p is 2 / 64 for each; with two contrasts Holm doubles both, whatever else is compared beside."""
    reference = variant("reference", [10.0] * 6)
    variants = [variant(name, [10 - difference for difference in SIX]) for name in ("a", "b", "check", "other")]
    found = said(
        reference,
        *variants,
        contrasts=[Pair("a", "reference"), Pair("b", "reference")],
        checks=[Pair("check", "reference", "", "a difference")],
    )
    assert [item.difference.p_value for item in found.contrasts] == [2 / 64, 2 / 64]
    assert [item.adjusted_p_value for item in found.contrasts] == [4 / 64, 4 / 64]
    assert [item.adjusted_p_value for item in (*found.checks, *found.others)] == [None, None]
    assert "not by the p-value after Holm (0.0625)" in found.contrasts[0].verdict
    assert only(found.others).verdict == "better"


@pytest.mark.parametrize(
    ("differences", "expected", "holds"),
    [
        ([1.0, -1.0, 0.5], "no difference", True),
        ([1.0, 1.1, 0.9], "no difference", False),
        ([1.0, 1.1, 0.9], "a difference", True),
        ([-1.0, -1.1, -0.9], "a difference", True),
        ([1.0, -1.0, 0.5], "a difference", False),
        ([1.0, 1.1, 0.9], "no gain", True),  # more errors
        ([1.0, -1.0, 0.5], "no gain", True),
        ([-1.0, -1.1, -0.9], "no gain", False),
        ([-1.0], "no gain", None),
    ],
)
def test_checks_hold_or_do_not(differences: list[float], expected: str, holds: bool | None) -> None:
    variants = variant("a", [10 + each for each in differences]), variant("b", [10.0] * len(differences))
    found = said(*variants, checks=[Pair("a", "b", "", expected)])
    assert only(found.checks).holds is holds
    words = {True: ", as expected", False: ", NOT as expected", None: ", too few seeds to tell"}[holds]
    assert sentence(found.checks[0], "error").endswith(f"expected {expected}{words}")
    assert not found.others  # a variant of a check is compared by its check


def test_where_higher_is_better_a_gain_is_a_gain() -> None:
    better, worse = variant("better", [8.0, 8.1, 7.9]), variant("worse", [10.0, 10.0, 10.0])
    found = said(
        better,
        worse,
        metrics=["top1"],
        contrasts=[Pair("better", "worse")],
        checks=[Pair("better", "worse", "", "no gain")],
    )
    contrast = only(found.contrasts)
    assert contrast.difference.mean == pytest.approx(2.0) and contrast.verdict == "better"
    assert only(found.checks).holds is False


def test_others_are_compared_with_the_comparator_of_the_first_contrast_or_the_first_variant() -> None:
    variants = [variant(name, [10.0, 11.0]) for name in ("a", "b", "c", "d")]
    found = said(*variants, contrasts=[Pair("d", "c"), Pair("a", "b")])
    assert [(item.pair.first, item.pair.second) for item in found.others] == [("a", "c"), ("b", "c")]
    found = said(*variants)
    assert [(item.pair.first, item.pair.second) for item in found.others] == [("b", "a"), ("c", "a"), ("d", "a")]


def test_a_variant_of_a_check_is_compared_by_its_check_alone() -> None:
    variants = [variant(name, [10.0, 11.0]) for name in ("a", "b", "c", "again")]
    found = said(*variants, contrasts=[Pair("a", "b")], checks=[Pair("again", "c", "", "no difference")])
    assert [(item.pair.first, item.pair.second) for item in found.others] == [("c", "b")]


def test_variants_without_records_are_left_out_and_noted() -> None:
    missing, half = variant("missing", {}, num_planned=3), variant("half", {0: 1.0}, num_planned=2)
    found = said(variant("a", [1.0, 2.0]), missing, half, contrasts=[Pair("missing", "a"), Pair("half", "a")])
    assert [summary.name for summary in found.variants] == ["a", "half"]
    assert [item.pair.first for item in found.contrasts] == ["half"]
    assert "missing: 0 of 3 seeds are finished" in found.notes
    assert "half: 1 of 2 seeds are finished" in found.notes


def test_nothing_finished_is_an_empty_analysis() -> None:
    found = said(variant("a", {}, num_planned=2), variant("b", {}, num_planned=2), contrasts=[Pair("a", "b")])
    assert (found.variants, found.contrasts, found.others, found.num_test_images) == ([], [], [], 0)


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"code": "other code"}, "runs of several versions of the code"),
        ({"environment": {"torch": "2.14", "threads": 1, "precision": "bf16"}}, "dtypes: bf16, fp32"),
        ({"environment": {"torch": "2.14", "threads": 2, "precision": "fp32"}}, "numbers of threads: 1, 2"),
        ({"environment": {"torch": "2.15", "threads": 1, "precision": "fp32"}}, "torch releases: 2.14, 2.15"),
        ({"labels": "other labels"}, "the test images differ"),
    ],
)
def test_differences_between_runs_are_noted(changed: dict[str, Any], note: str) -> None:
    first = variant("a", [1.0, 2.0])
    assert not said(first, variant("b", [1.0, 2.0])).notes
    notes = said(first, variant("b", [1.0, 2.0], changed=changed)).notes
    assert len(notes) == 1 and note in notes[0]


def test_there_is_no_bootstrap_where_the_test_images_differ() -> None:
    """All 8 images right against none: 100 points less error in every resample."""
    right = {"right": records.pack_bits(np.ones(8, dtype=bool))}
    first, second = variant("a", [1.0, 1.0], changed=right), variant("b", [2.0, 2.0])
    assert only(said(first, second, contrasts=[Pair("a", "b")]).contrasts).bootstrap == (-100.0, -100.0)
    elsewhere = variant("a", [1.0, 1.0], changed=right | {"labels": "other labels"})
    assert only(said(elsewhere, second, contrasts=[Pair("a", "b")]).contrasts).bootstrap is None


def test_the_bootstrap_is_the_same_at_every_call() -> None:
    bits = np.random.default_rng(0).random((2, 2, 400)) < 0.9
    variants = [variant(name, [10.0, 11.0]) for name in ("a", "b")]
    for each, rows in zip(variants, bits, strict=True):
        for seed, row in enumerate(rows):
            each.records[seed] |= {"num_test_images": 400, "right": records.pack_bits(row)}
    first, second = (only(said(*variants, contrasts=[Pair("a", "b")]).contrasts).bootstrap for _ in range(2))
    assert first == second and first is not None and first.low < first.high


def test_one_seed_of_each_compares_two_models_by_the_images_that_only_one_classifies_correctly() -> None:
    """Of 8 images 6 are right in the first model alone: p is 2 / 64."""
    first = variant("a", [25.0], changed={"right": records.pack_bits(np.arange(8) < 6)})
    second = variant("b", [100.0])
    found = said(first, second, contrasts=[Pair("a", "b")])
    contrast = only(found.contrasts)
    assert contrast.two_models == (6, 0, 2 / 64)
    assert contrast.verdict == "too few seeds" and contrast.difference.interval is None
    assert (
        "only the first of these two models is correct on 6 images, only the second on 0: McNemar p 0.0312"
        in sentence(contrast, "error")
    )
    elsewhere = variant("b", [100.0], changed={"labels": "other labels"})
    assert only(said(first, elsewhere, contrasts=[Pair("a", "b")]).contrasts).two_models is None
    several = said(variant("a", [1.0, 2.0]), variant("b", [2.0, 3.0]), contrasts=[Pair("a", "b")])
    assert only(several.contrasts).two_models is None


def test_curves_have_a_mean_and_a_band_at_the_epochs_that_all_seeds_have() -> None:
    """2 and 4 at epoch 1: mean 3, half a width of 12.7062 * sqrt(2) / sqrt(2); epoch 2 is known of one alone."""
    curves = [
        {"train_loss": {"epochs": [1, 2, 4], "values": [2.0, 1.5, 1.0]}},
        {"train_loss": {"epochs": [1, 4], "values": [4.0, 1.0]}},
    ]
    found = variant("a", [1.0, 2.0])
    for seed, curve in enumerate(curves):
        found.records[seed] |= {"curves": curve, "epochs": 4, "samples_seen": 400}
    (summary,) = said(found).variants
    assert list(summary.curves) == ["train_loss"]
    curve = summary.curves["train_loss"]
    assert (curve.at, curve.mean) == ([1, 4], [3.0, 1.0])
    assert summary.samples_per_epoch == 100
    assert curve.low == pytest.approx([3 - T_WITH_1_DEGREE, 1.0], abs=1e-3)
    assert curve.high == pytest.approx([3 + T_WITH_1_DEGREE, 1.0], abs=1e-3)


def test_a_curve_of_one_seed_has_a_band_of_no_width() -> None:
    found = variant("a", [1.0], changed={"curves": {"test_top1": {"epochs": [1, 2], "values": [50.0, 60.0]}}})
    (summary,) = said(found).variants
    curve = summary.curves["test_top1"]
    assert curve.low == curve.mean == curve.high == [50.0, 60.0]


def test_compute_is_given_for_every_variant_and_every_pair() -> None:
    first, second = variant("a", [1.0, 2.0]), variant("b", [1.0, 2.0], changed={"samples_seen": 800, "seconds": 180.0})
    found = said(first, second, budget=800, contrasts=[Pair("a", "b")])
    assert [(each.samples_seen, each.compute, each.steps) for each in found.variants] == [
        (400, 0.5, 10),
        (800, 1.0, 10),
    ]
    assert [each.minutes for each in found.variants] == [1.0, 3.0]
    assert only(found.contrasts).compute_ratio == 0.5
    assert [each.compute for each in said(first, second).variants] == [None, None]


def test_a_protocol_that_one_seed_lacks_is_left_out() -> None:
    found = variant("a", [10.0, 12.0])
    chosen = {"epoch": 2, "error": 11.0}
    found.records[0]["best"]["best_on_validation"] = chosen
    assert set(said(found).variants[0].means) == {"final", "best_on_test"}
    found.records[1]["best"]["best_on_validation"] = chosen
    assert said(found).variants[0].means["best_on_validation"]["error"].mean == 11.0


def test_differing_settings_are_listed_except_seeds_and_folders() -> None:
    first = variant("a", [1.0], ("train.seed", 3), ("train.runs_dir", "elsewhere"), ("optimizer.lr", 0.2))
    found = said(first, variant("b", [1.0]))
    assert [each.settings for each in found.variants] == [{"optimizer.lr": 0.2}, {"optimizer.lr": 0.1}]


def test_a_difference_within_the_margin_is_called_equivalent() -> None:
    """Differences of 0.01, 0.02, 0.03: the interval excludes 0, and lies within 0.2."""
    variants = variant("a", [10.01, 10.02, 10.03]), variant("b", [10.0] * 3)
    found = said(*variants, contrasts=[Pair("a", "b", "the best of several")], margin=0.2)
    contrast = only(found.contrasts)
    assert contrast.equivalence.is_equivalent
    expected = "a against b (the best of several): error +0.02 points [-0.00484, +0.0448], 3 seeds: "
    assert sentence(contrast, "error") == expected + "equivalent within 0.2"
    assert not only(said(*variants, contrasts=[Pair("a", "b")], margin=0.01).contrasts).equivalence.is_equivalent


def test_the_numbers_survive_json() -> None:
    variants = variant("a", [10 - each for each in SIX]), variant("b", [10.0] * 6), variant("c", [9.0] * 6)
    found = said(*variants, contrasts=[Pair("a", "b")], checks=[Pair("c", "b", "", "no difference")], notes=["noted"])
    answer = json.loads(json.dumps(as_mapping(found), allow_nan=False))
    assert answer["variants"]["a"] == {
        "num_seeds": 6,
        "samples_seen": 400,
        "steps": 10,
        "minutes": 1.0,
        "error": 6.5,
        "top1": 93.5,
        "top5": 99.0,
        "nll": pytest.approx(0.65),
        "ece": pytest.approx(0.01),
    }
    (contrast,) = answer["contrasts"]
    assert (contrast["difference"], contrast["p_value"], contrast["adjusted_p_value"]) == (-3.5, 2 / 64, 2 / 64)
    assert contrast["interval"] == list(found.contrasts[0].difference.interval or ())
    assert answer["checks"][0]["holds"] is False
    assert answer["notes"] == ["noted"]


def test_notes_and_environment_name_versions_and_devices_of_the_runs() -> None:
    found = said(variant("a", [1.0]), variant("b", [1.0], changed={"code": "other code"}), notes=["first of all"])
    assert found.notes[0] == "first of all"
    assert found.environment["code"] == ["other code", "the code"]
    assert found.environment["torch"] == ["2.14"]
    assert found.num_test_images == 8
