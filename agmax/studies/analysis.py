"""From the records of finished runs to what can be said: means, paired differences, checks, and what is missing."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agmax.config import names
from agmax.config.schema import Config
from agmax.core.errors import DataError
from agmax.core.rng import generator
from agmax.evaluation.metrics import METRICS
from agmax.studies import records
from agmax.studies.intervals import (
    Equivalence,
    Interval,
    McNemar,
    Mean,
    PairedDifference,
    bootstrap_interval,
    equivalence_test,
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
    verdict,
)
from agmax.studies.records import Record

PROTOCOLS = {
    "final": "final epoch",
    "best_on_validation": "best on validation",
    "best_on_test": "best_on_test (as the papers do)",
}
"""How the epoch that counts is chosen; the first is the headline."""

NOT_OF_THE_VARIANT = ("name", "dataset.seed", "model.seed", "train.seed", "train.runs_dir", "dataset.root")
"""Settings in which runs of one variant differ, or which say nothing about it."""


class VariantRuns(NamedTuple):
    """One of the methods that are compared, with what is recorded of it."""

    name: str
    about: str
    config: Config  # of one of its runs
    records: dict[int, Record]  # by the seed of the seed
    num_planned: int
    paper: dict[str, float]  # published numbers by metric
    num_trials: int = 0  # from which its settings were chosen


class Pair(NamedTuple):
    """Two variants to compare, by name."""

    first: str
    second: str
    about: str = ""  # how the second was found, or what is expected
    expect: str = ""  # of a check: "no difference", "a difference" or "no gain"


class Curve(NamedTuple):
    """A number of every seed over something else."""

    at: list[float]
    mean: list[float]
    low: list[float]  # of the 95 % interval; the mean where there is one seed
    high: list[float]


class VariantSummary(NamedTuple):
    """What one variant came to."""

    name: str
    about: str
    num_seeds: int
    num_planned: int
    num_trials: int
    means: dict[str, dict[str, Mean]]  # protocol -> metric -> mean on the test images
    values: dict[str, list[float]]  # metric -> of every seed at the final epoch
    samples_seen: int
    steps: int
    minutes: float  # median of a run, training and evaluation
    compute: float | None  # samples seen as a multiple of the budget
    settings: dict[str, Any]  # those in which variants differ
    paper: dict[str, float]
    samples_per_epoch: float
    curves: dict[str, Curve]  # of records.CURVES, over epochs
    robustness: dict[str, Curve]  # top1 over shares occluded in percent, or over offsets in pixels


class Comparison(NamedTuple):
    """What can be said of a pair, by the headline metric at the final epoch."""

    pair: Pair
    difference: PairedDifference
    equivalence: Equivalence
    bootstrap: Interval | None  # over seeds and images, of the error
    adjusted_p_value: float | None  # after Holm over the contrasts
    compute_ratio: float  # samples seen of the first over those of the second
    verdict: str
    holds: bool | None  # of a check: is it as expected? None where there are too few seeds to say
    two_models: McNemar | None  # where each variant has one seed: the test between these two models


class Analysis(NamedTuple):
    """All that tables, figures and the page show."""

    title: str
    about: str
    metrics: tuple[str, ...]  # the first is the headline
    margin: float
    budget: int | None
    num_test_images: int
    num_robustness_images: set[int]  # on how many of them robustness was measured: one number, where variants agree
    variants: list[VariantSummary]
    contrasts: list[Comparison]  # fixed in advance, with p-values
    checks: list[Comparison]
    others: list[Comparison]  # every other variant beside one: estimates, without p-values
    environment: dict[str, list[str]]  # what the runs were made by: every value that occurs
    notes: list[str]


def analyze(
    title: str,
    variants: Sequence[VariantRuns],
    *,
    metrics: Sequence[str],
    contrasts: Sequence[Pair] = (),
    checks: Sequence[Pair] = (),
    about: str = "",
    margin: float = 0.2,
    budget: int | None = None,
    notes: Sequence[str] = (),
) -> Analysis:
    """Compare variants, of which those without a record are left out and noted.

    The other comparisons are of every variant with the comparator of the first contrast, or with the first variant.

    Raises:
        DataError: records of an earlier release lack the first metric, by which variants are compared.
    """
    measured = {variant.name: variant for variant in variants if variant.records}
    lacking = [
        name for name, variant in measured.items() if metrics[0] not in _common_metrics(list(variant.records.values()))
    ]
    if lacking:
        why, remedy = f"records of {', '.join(lacking)} lack it", "Name another metric first, or train these again"
        raise DataError("variants cannot be compared", where=metrics[0], why=why, remedy=remedy)
    differing = _differing_settings([variant.config for variant in variants])
    summaries = [_summary(variant, budget, differing) for variant in measured.values()]
    notes = [*notes, *_notes(variants)]

    def compared(pairs: Sequence[Pair]) -> list[Comparison]:
        possible = [pair for pair in pairs if set(_seeds(measured, pair))]
        return [_comparison(measured, pair, metrics[0], margin) for pair in possible]

    for pair in (*contrasts, *checks):
        if {pair.first, pair.second} <= measured.keys() and not _seeds(measured, pair):
            notes.append(f"{pair.first} and {pair.second} have no seed in common, so nothing can be paired")
    fixed = compared(contrasts)
    adjusted = holm([item.difference.p_value for item in fixed])
    fixed = [
        item._replace(
            adjusted_p_value=p_value,
            verdict=_verdict(item.difference, item.equivalence, metrics[0], p_value),
        )
        for item, p_value in zip(fixed, adjusted, strict=True)
    ]
    tested = compared(checks)
    reference = contrasts[0].second if contrasts else next(iter(measured), "")
    told = [{pair.first, pair.second} for pair in (*contrasts, *checks)]
    of_checks = {pair.first for pair in checks}
    others = compared(
        [
            Pair(name, reference)
            for name in measured
            if name != reference and {name, reference} not in told and name not in of_checks
        ]
    )
    counts = {record["num_test_images"] for variant in measured.values() for record in variant.records.values()}
    num_test_images = max(counts, default=0)
    limits = {variant.config.evaluation.robustness_limit or num_test_images for variant in measured.values()}
    return Analysis(
        title,
        about,
        tuple(metrics),
        margin,
        budget,
        num_test_images,
        {min(limit, num_test_images) for limit in limits},
        summaries,
        fixed,
        tested,
        others,
        _environment(measured.values()),
        notes,
    )


def as_mapping(analysis: Analysis) -> dict[str, Any]:
    """Return the numbers of an analysis in plain types, for --json."""

    def compared(comparison: Comparison) -> dict[str, Any]:
        pair, difference = comparison.pair, comparison.difference
        return {
            "first": pair.first,
            "second": pair.second,
            "difference": difference.mean,
            "interval": difference.interval,
            "num_seeds": difference.num_seeds,
            "p_value": difference.p_value,
            "adjusted_p_value": comparison.adjusted_p_value,
            "bootstrap": comparison.bootstrap,
            "is_equivalent": comparison.equivalence.is_equivalent,
            "verdict": comparison.verdict,
            "holds": comparison.holds,
        }

    return {
        "variants": {
            variant.name: {
                "num_seeds": variant.num_seeds,
                "samples_seen": variant.samples_seen,
                "steps": variant.steps,
                "minutes": variant.minutes,
                **{metric: mean.mean for metric, mean in variant.means["final"].items()},
                **{name: {"at": curve.at, "top1": curve.mean} for name, curve in variant.robustness.items()},
            }
            for variant in analysis.variants
        },
        "contrasts": [compared(item) for item in analysis.contrasts],
        "checks": [compared(item) for item in analysis.checks],
        "notes": analysis.notes,
    }


def _summary(variant: VariantRuns, budget: int | None, differing: Sequence[str]) -> VariantSummary:
    found = [variant.records[seed] for seed in sorted(variant.records)]
    leaves = dict(names.leaves(variant.config.model_dump(mode="json")))
    samples = round(statistics.median(record["samples_seen"] for record in found))
    return VariantSummary(
        name=variant.name,
        about=variant.about,
        num_seeds=len(found),
        num_planned=variant.num_planned,
        num_trials=variant.num_trials,
        means=_means(found),
        values={metric: _values(found, metric).tolist() for metric in _common_metrics(found)},
        samples_seen=samples,
        steps=round(statistics.median(record["steps"] for record in found)),
        minutes=statistics.median(record["seconds"] for record in found) / 60,
        compute=samples / budget if budget else None,
        settings={key: leaves.get(key) for key in differing},
        paper=variant.paper,
        samples_per_epoch=samples / found[0]["epochs"],
        curves={name: curve for name in records.CURVES if (curve := _curve_over_epochs(found, name))},
        robustness={name: curve for name in ("occlusion", "offsets") if (curve := _robustness(found, name))},
    )


def _means(found: Sequence[Record]) -> dict[str, dict[str, Mean]]:
    """Return mean and interval of every metric under every protocol that all records know."""
    by_protocol: dict[str, list[dict[str, float]]] = {
        protocol: [
            record["metrics"]["test"] if protocol == "final" else record["best"][protocol]
            for record in found
            if protocol == "final" or protocol in record["best"]
        ]
        for protocol in PROTOCOLS
    }
    return {
        protocol: {
            metric: mean_interval(np.array([values[metric] for values in listed]))
            for metric in METRICS
            if all(metric in values for values in listed)
        }
        for protocol, listed in by_protocol.items()
        if len(listed) == len(found)
    }


def _curve_over_epochs(found: Sequence[Record], name: str) -> Curve | None:
    curves = [record["curves"].get(name, {"epochs": [], "values": []}) for record in found]
    return _curve([dict(zip(curve["epochs"], curve["values"], strict=True)) for curve in curves])


def _robustness(found: Sequence[Record], name: str) -> Curve | None:
    tables = [record.get("robustness", {}).get(name, {"at": [], "top1": []}) for record in found]
    return _curve([dict(zip(table["at"], table["top1"], strict=True)) for table in tables])


def _curve(points: Sequence[Mapping[float, float]]) -> Curve | None:
    """Return the mean curve of the seeds, where all of them are known."""
    places = sorted(set.intersection(*(set(each) for each in points)))
    if not places:
        return None
    means = [mean_interval(np.array([each[place] for each in points], dtype=np.float64)) for place in places]
    return Curve(
        places,
        [item.mean for item in means],
        [item.interval.low if item.interval else item.mean for item in means],
        [item.interval.high if item.interval else item.mean for item in means],
    )


def _seeds(variants: Mapping[str, VariantRuns], pair: Pair) -> list[int]:
    """Return the seeds that both variants have."""
    if pair.first not in variants or pair.second not in variants:
        return []
    return sorted(variants[pair.first].records.keys() & variants[pair.second].records.keys())


def _comparison(variants: Mapping[str, VariantRuns], pair: Pair, metric: str, margin: float) -> Comparison:
    seeds = _seeds(variants, pair)
    first, second = ([variants[name].records[seed] for seed in seeds] for name in (pair.first, pair.second))
    values = [_values(listed, metric) for listed in (first, second)]
    difference = paired_difference(*values)
    equivalence = equivalence_test(*values, margin=margin)
    return Comparison(
        pair=pair,
        difference=difference,
        equivalence=equivalence,
        bootstrap=_bootstrap(first, second, pair),
        adjusted_p_value=None,
        compute_ratio=first[0]["samples_seen"] / second[0]["samples_seen"],
        verdict=_verdict(difference, equivalence, metric, None),
        holds=_holds(difference, pair.expect, lower_is_better=not METRICS[metric].higher_is_better),
        two_models=_two_models(first, second) if len(seeds) == 1 else None,
    )


def _common_metrics(found: Sequence[Record]) -> list[str]:
    """Return the metrics that all records have; those of an earlier release may lack some."""
    return [metric for metric in METRICS if all(metric in record["metrics"]["test"] for record in found)]


def _values(found: Sequence[Record], metric: str) -> NDArray[np.float64]:
    return np.array([record["metrics"]["test"][metric] for record in found], dtype=np.float64)


def _bootstrap(first: Sequence[Record], second: Sequence[Record], pair: Pair) -> Interval | None:
    """Return the interval over seeds and images, None where the test images are not the same."""
    if len({record["labels"] for record in (*first, *second)}) > 1:
        return None
    bits = [np.stack([records.unpack_right(record) for record in listed]) for listed in (first, second)]
    return bootstrap_interval(*bits, generator=generator("bootstrap", pair.first, pair.second))


def _two_models(first: Sequence[Record], second: Sequence[Record]) -> McNemar | None:
    if first[0]["labels"] != second[0]["labels"]:
        return None
    return mcnemar(records.unpack_right(first[0]), records.unpack_right(second[0]))


def _verdict(difference: PairedDifference, equivalence: Equivalence, metric: str, p_value: float | None) -> str:
    return verdict(
        difference,
        lower_is_better=not METRICS[metric].higher_is_better,
        equivalence=equivalence,
        adjusted_p_value=p_value,
    )


def _holds(difference: PairedDifference, expect: str, *, lower_is_better: bool) -> bool | None:
    """Tell whether a check came out as expected."""
    if not expect or difference.interval is None:
        return None
    low, high = difference.interval
    if expect == "no difference":
        return low <= 0 <= high
    if expect == "a difference":
        return not low <= 0 <= high
    return high >= 0 if lower_is_better else low <= 0  # no gain: the interval is not wholly on the better side


def _differing_settings(configs: Sequence[Config]) -> list[str]:
    """Return the settings in which variants differ."""
    leaves = [dict(names.leaves(config.model_dump(mode="json"))) for config in configs]
    keys = sorted({key for each in leaves for key in each})
    return [
        key
        for key in keys
        if key not in NOT_OF_THE_VARIANT and any(each.get(key) != leaves[0].get(key) for each in leaves)
    ]


def _environment(variants: Any) -> dict[str, list[str]]:
    found = [
        record["environment"] | {"code": record.get("code")}
        for variant in variants
        for record in variant.records.values()
    ]
    keys = (*records.ENVIRONMENT_KEYS, "code")
    return {key: sorted({str(each.get(key)) for each in found}) for key in keys}


def _notes(variants: Sequence[VariantRuns]) -> list[str]:
    """Say what is missing, and what does not go together."""
    notes = [
        f"{variant.name}: {len(variant.records)} of {variant.num_planned} seeds are finished"
        for variant in variants
        if len(variant.records) < variant.num_planned
    ]
    found = [record for variant in variants for record in variant.records.values()]
    for key, what in (("precision", "number formats"), ("threads", "numbers of threads"), ("torch", "torch releases")):
        values = sorted({str(record["environment"].get(key)) for record in found})
        if len(values) > 1:
            notes.append(f"runs of several {what}: {', '.join(values)}")
    if len({record.get("code") for record in found}) > 1:
        notes.append("runs of several states of the code")
    if len({record["labels"] for record in found}) > 1:
        notes.append("the test images are not the same in all runs: no interval over images can be given")
    return notes
