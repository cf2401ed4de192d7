"""Analyze the records of finished runs: means, paired differences, checks, and notes on what is missing."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
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
"""How the reported epoch is chosen; the first is the headline."""

NOT_OF_THE_VARIANT = ("name", "dataset.seed", "model.seed", "train.seed", "train.runs_dir", "dataset.root")
"""Settings that may differ between runs of one variant."""


class VariantRuns(NamedTuple):
    """A variant to compare, with its records: the input of `analyze`."""

    name: str
    about: str
    config: Config  # of one of its runs
    records: dict[int, Record]  # by seed
    num_planned: int
    paper: dict[str, float]  # published numbers by metric
    num_trials: int = 0  # of the tuning from which its settings were chosen


class Pair(NamedTuple):
    """Two variants to compare, by name."""

    first: str
    second: str
    about: str = ""  # how the second was chosen
    expect: str = ""  # of a check: "no difference", "a difference" or "no gain"


class Curve(NamedTuple):
    """Mean over seeds as a function of `at`: epochs, percent of the area, or pixels."""

    at: list[float]
    mean: list[float]
    low: list[float]  # of the 95 % interval; equal to the mean with one seed
    high: list[float]


class VariantSummary(NamedTuple):
    """The results of one variant: what tables and figures show."""

    name: str
    about: str
    num_seeds: int
    num_planned: int
    num_trials: int
    means: dict[str, dict[str, Mean]]  # protocol -> metric -> mean on the test images
    values: dict[str, list[float]]  # metric -> one value for each seed, at the final epoch
    samples_seen: int
    steps: int
    minutes: float  # of training and evaluation, median over runs
    compute: float | None  # samples seen as a multiple of the budget
    settings: dict[str, Any]  # only those that differ between variants
    paper: dict[str, float]
    samples_per_epoch: float
    curves: dict[str, Curve]  # of records.CURVES, over epochs
    robustness: dict[str, Curve]  # top1 over occluded fractions in percent, or over offsets in pixels


class Comparison(NamedTuple):
    """The comparison of a pair, by the headline metric at the final epoch."""

    pair: Pair
    difference: PairedDifference
    equivalence: Equivalence
    bootstrap: Interval | None  # of the error, over seeds and images
    adjusted_p_value: float | None  # after Holm over the contrasts
    compute_ratio: float  # samples seen of the first over those of the second
    verdict: str
    holds: bool | None  # of a check: is the result as expected? None with too few seeds
    two_models: McNemar | None  # the test between two models, where each variant has one seed


class Analysis(NamedTuple):
    """The result of a study: the content of tables, figures and the page."""

    title: str
    about: str
    metrics: tuple[str, ...]  # the first is the headline
    margin: float
    budget: int | None
    num_test_images: int
    num_robustness_images: set[int]  # test images on which robustness was measured; one number if all variants agree
    variants: list[VariantSummary]
    contrasts: list[Comparison]  # declared in advance, with p-values
    checks: list[Comparison]
    others: list[Comparison]  # all other variants with the reference: estimates without p-values
    environment: dict[str, list[str]]  # of the runs: all values that occur
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
    """Compare variants by their records; variants without a record are left out and noted.

    `others` compares all remaining variants with the second variant of the first contrast, or with the first variant.

    Raises:
        DataError: records of an earlier release lack the headline metric.
    """
    measured = {variant.name: variant for variant in variants if variant.records}
    incomplete = [
        name for name, variant in measured.items() if metrics[0] not in _common_metrics(list(variant.records.values()))
    ]
    if incomplete:
        why, remedy = f"records of {', '.join(incomplete)} lack it", "Name another metric first, or train these again"
        raise DataError("variants cannot be compared", where=metrics[0], why=why, remedy=remedy)
    differing = _differing_settings([variant.config for variant in variants])
    summaries = [_summary(variant, budget, differing) for variant in measured.values()]
    notes = [*notes, *_notes(variants)]

    def compare(pairs: Sequence[Pair]) -> list[Comparison]:
        return [_comparison(measured, pair, metrics[0], margin) for pair in pairs if _seeds(measured, pair)]

    for pair in (*contrasts, *checks):
        if {pair.first, pair.second} <= measured.keys() and not _seeds(measured, pair):
            notes.append(f"{pair.first} and {pair.second} have no seed in common and cannot be compared")
    in_contrasts = compare(contrasts)
    adjusted = holm([item.difference.p_value for item in in_contrasts])
    in_contrasts = [
        item._replace(
            adjusted_p_value=p_value,
            verdict=_verdict(item.difference, item.equivalence, metrics[0], p_value),
        )
        for item, p_value in zip(in_contrasts, adjusted, strict=True)
    ]
    in_checks = compare(checks)
    reference = contrasts[0].second if contrasts else next(iter(measured), "")
    listed = [{pair.first, pair.second} for pair in (*contrasts, *checks)]
    checked = {pair.first for pair in checks}
    others = compare(
        [
            Pair(name, reference)
            for name in measured
            if name != reference and {name, reference} not in listed and name not in checked
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
        in_contrasts,
        in_checks,
        others,
        _environment(measured.values()),
        notes,
    )


def as_mapping(analysis: Analysis) -> dict[str, Any]:
    """Return the numbers of an analysis as plain types, for --json."""

    def mapping(comparison: Comparison) -> dict[str, Any]:
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
        "contrasts": [mapping(item) for item in analysis.contrasts],
        "checks": [mapping(item) for item in analysis.checks],
        "notes": analysis.notes,
    }


def _summary(variant: VariantRuns, budget: int | None, differing: Sequence[str]) -> VariantSummary:
    by_seed = [variant.records[seed] for seed in sorted(variant.records)]
    leaves = dict(names.leaves(variant.config.model_dump(mode="json")))
    samples = round(statistics.median(record["samples_seen"] for record in by_seed))
    return VariantSummary(
        name=variant.name,
        about=variant.about,
        num_seeds=len(by_seed),
        num_planned=variant.num_planned,
        num_trials=variant.num_trials,
        means=_means(by_seed),
        values={metric: _values(by_seed, metric).tolist() for metric in _common_metrics(by_seed)},
        samples_seen=samples,
        steps=round(statistics.median(record["steps"] for record in by_seed)),
        minutes=statistics.median(record["seconds"] for record in by_seed) / 60,
        compute=samples / budget if budget else None,
        settings={key: leaves.get(key) for key in differing},
        paper=variant.paper,
        samples_per_epoch=samples / by_seed[0]["epochs"],
        curves={name: curve for name in records.CURVES if (curve := _curve_over_epochs(by_seed, name))},
        robustness={name: curve for name in ("occlusion", "offsets") if (curve := _robustness(by_seed, name))},
    )


def _means(listed: Sequence[Record]) -> dict[str, dict[str, Mean]]:
    """Return mean and interval of every metric, for each protocol that all records have."""
    by_protocol: dict[str, list[dict[str, float]]] = {
        protocol: [
            record["metrics"]["test"] if protocol == "final" else record["best"][protocol]
            for record in listed
            if protocol == "final" or protocol in record["best"]
        ]
        for protocol in PROTOCOLS
    }
    return {
        protocol: {
            metric: mean_interval(np.array([values[metric] for values in by_record]))
            for metric in METRICS
            if all(metric in values for values in by_record)
        }
        for protocol, by_record in by_protocol.items()
        if len(by_record) == len(listed)
    }


def _curve_over_epochs(listed: Sequence[Record], name: str) -> Curve | None:
    curves = [record["curves"].get(name, {"epochs": [], "values": []}) for record in listed]
    return _curve([dict(zip(curve["epochs"], curve["values"], strict=True)) for curve in curves])


def _robustness(listed: Sequence[Record], name: str) -> Curve | None:
    tables = [record.get("robustness", {}).get(name, {"at": [], "top1": []}) for record in listed]
    return _curve([dict(zip(table["at"], table["top1"], strict=True)) for table in tables])


def _curve(points: Sequence[Mapping[float, float]]) -> Curve | None:
    """Return the mean over seeds at the places that all of them have; None where there are none."""
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
    """Return the seeds that both variants of a pair have."""
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


def _common_metrics(listed: Sequence[Record]) -> list[str]:
    """Return the metrics that all records have; records of an earlier release may lack some."""
    return [metric for metric in METRICS if all(metric in record["metrics"]["test"] for record in listed)]


def _values(listed: Sequence[Record], metric: str) -> NDArray[np.float64]:
    return np.array([record["metrics"]["test"][metric] for record in listed], dtype=np.float64)


def _bootstrap(first: Sequence[Record], second: Sequence[Record], pair: Pair) -> Interval | None:
    """Return the interval over seeds and images; None where the test images differ."""
    if len({record["labels"] for record in (*first, *second)}) > 1:
        return None
    bits = [np.stack([records.unpack_bits(record) for record in listed]) for listed in (first, second)]
    return bootstrap_interval(*bits, generator=generator("bootstrap", pair.first, pair.second))


def _two_models(first: Sequence[Record], second: Sequence[Record]) -> McNemar | None:
    if first[0]["labels"] != second[0]["labels"]:
        return None
    return mcnemar(records.unpack_bits(first[0]), records.unpack_bits(second[0]))


def _verdict(difference: PairedDifference, equivalence: Equivalence, metric: str, p_value: float | None) -> str:
    return verdict(
        difference,
        lower_is_better=not METRICS[metric].higher_is_better,
        equivalence=equivalence,
        adjusted_p_value=p_value,
    )


def _holds(difference: PairedDifference, expect: str, *, lower_is_better: bool) -> bool | None:
    """Return whether the result of a check is as expected; None with too few seeds."""
    if not expect or difference.interval is None:
        return None
    low, high = difference.interval
    if expect == "no difference":
        return low <= 0 <= high
    if expect == "a difference":
        return not low <= 0 <= high
    return high >= 0 if lower_is_better else low <= 0  # no gain: the interval is not entirely on the better side


def _differing_settings(configs: Sequence[Config]) -> list[str]:
    """Return the settings that differ between variants."""
    leaves = [dict(names.leaves(config.model_dump(mode="json"))) for config in configs]
    keys = sorted({key for each in leaves for key in each})
    return [
        key
        for key in keys
        if key not in NOT_OF_THE_VARIANT and any(each.get(key) != leaves[0].get(key) for each in leaves)
    ]


def _environment(variants: Iterable[VariantRuns]) -> dict[str, list[str]]:
    environments = [
        record["environment"] | {"code": record.get("code")}
        for variant in variants
        for record in variant.records.values()
    ]
    keys = (*records.ENVIRONMENT_KEYS, "code")
    return {key: sorted({str(each.get(key)) for each in environments}) for key in keys}


def _notes(variants: Sequence[VariantRuns]) -> list[str]:
    """Return notes on missing seeds, and on differences between the runs."""
    notes = [
        f"{variant.name}: {len(variant.records)} of {variant.num_planned} seeds are finished"
        for variant in variants
        if len(variant.records) < variant.num_planned
    ]
    listed = [record for variant in variants for record in variant.records.values()]
    for key, what in (("precision", "dtypes"), ("threads", "numbers of threads"), ("torch", "torch releases")):
        values = sorted({str(record["environment"].get(key)) for record in listed})
        if len(values) > 1:
            notes.append(f"runs with several {what}: {', '.join(values)}")
    if len({record.get("code") for record in listed}) > 1:
        notes.append("runs of several versions of the code")
    if len({record["labels"] for record in listed}) > 1:
        notes.append("the test images differ between runs: there is no interval over images")
    return notes
