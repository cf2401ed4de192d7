"""Build the tables of a study as plain text, for Markdown, LaTeX and the HTML page."""

from collections.abc import Sequence
from typing import NamedTuple

from agmax.evaluation.metrics import METRICS
from agmax.reports.formatting import (
    DASH,
    MINUS,
    PLUS_MINUS,
    accuracy_metric,
    capitalize,
    difference,
    equivalence,
    is_unequal,
    mean,
    metric_name,
    number,
    over_images,
    p_value,
    pair_name,
    plain,
    published_number,
    seeds,
    times,
    two_models,
    unit_of_differences,
    with_compute_ratio,
)
from agmax.studies.analysis import PROTOCOLS, Analysis, Comparison, Curve

NO_P_VALUE = "no p-value below six seeds"
MCNEMAR = "McNemar of these two models"

TEXTS = {
    "variant",
    "variants",
    "by the interval",
    "check",
    "chosen as",
    "contrast",
    "expected",
    "found",
    "holds?",
    "verdict",
}
TEXTS |= {"what it controls", MCNEMAR}
"""Columns of text; all others are of numbers."""
ALWAYS = {"p, sign flips", "p after Holm"}
"""Columns that are shown even when empty; all other empty columns are left out."""


class Column(NamedTuple):
    """The head of a column."""

    title: str
    is_text: bool = False  # else a number, which is aligned to the right


class Table(NamedTuple):
    """A table whose first column names the rows."""

    name: str  # one word, used as an identifier
    title: str
    caption: str
    columns: list[Column]
    rows: list[list[str]]
    notes: list[str]  # footnotes


def tables(analysis: Analysis) -> list[Table]:
    """Return the tables of an analysis that have rows: variants, contrasts, checks, others, robustness."""
    comparisons = (variants(analysis), contrasts(analysis), checks(analysis), others(analysis))
    return [table for table in (*comparisons, *(robustness(analysis, name) for name in ROBUSTNESS)) if table.rows]


def _table(name: str, title: str, caption: str, rows: Sequence[dict[str, str]], notes: list[str]) -> Table:
    """Create a table from rows that map column titles to entries."""
    titles = list(rows[0]) if rows else []
    shown = [head for head in titles if head in ALWAYS or any(row[head] != DASH for row in rows)]
    columns = [Column(head, head in TEXTS) for head in shown]
    return Table(name, title, caption, columns, [[row[head] for head in shown] for row in rows], notes)


def variants(analysis: Analysis) -> Table:
    """Return the main table, one row for each variant."""
    headline = analysis.metrics[0]
    rows = [
        {
            "variant": with_compute_ratio(variant.name, variant.compute),
            "what it controls": plain(variant.about) or DASH,
            **{metric_name(metric): mean(variant.means["final"].get(metric), metric) for metric in analysis.metrics},
            **{
                f"{headline}, {words}": mean(variant.means.get(protocol, {}).get(headline), headline)
                for protocol, words in PROTOCOLS.items()
                if protocol != "final"
            },
            "seeds": seeds(variant),
            "trials": str(variant.num_trials) if variant.num_trials else DASH,
            "samples seen": f"{variant.samples_seen:,}",
            "of the budget": DASH if variant.compute is None else times(variant.compute),
            "steps": f"{variant.steps:,}",
            "minutes": f"{variant.minutes:.1f}",
            "published": DASH if (paper := published_number(variant, headline)) is None else number(paper, headline),
        }
        for variant in analysis.variants
    ]
    return _table("variants", "Results", _caption_of_variants(analysis), rows, _notes_of_variants(analysis))


def _caption_of_variants(analysis: Analysis) -> str:
    protocol = f"at the {PROTOCOLS['final']}, unless a column names another protocol"
    return (
        f"{_metrics(analysis.metrics)} on {analysis.num_test_images:,} test images {protocol}: mean over seeds "
        f"{PLUS_MINUS} half the width of its 95 % t interval. Each interval is of one variant. Differences between "
        "variants are paired by seed, which makes them more precise; they are in the tables below. Minutes are of "
        "training and evaluation, the median over runs."
    )


def _notes_of_variants(analysis: Analysis) -> list[str]:
    notes = []
    unequal = [
        variant.compute for variant in analysis.variants if variant.compute is not None and is_unequal(variant.compute)
    ]
    if unequal:
        budget = f"the budget of {analysis.budget:,} samples seen"
        notes.append(f"({times(unequal[0])}) unequal compute: the variant uses {times(unequal[0])} {budget}")
    if any(variant.num_trials for variant in analysis.variants):
        notes.append(
            "trials: number of trials on validation images from which the settings were chosen; a variant that is like "
            "another has its choice"
        )
    if any(variant.num_seeds == 1 for variant in analysis.variants):
        notes.append(f"without {PLUS_MINUS}: one seed")
    if any(published_number(variant, analysis.metrics[0]) is not None for variant in analysis.variants):
        notes.append("published: by the authors' own protocol, which may differ from all protocols here")
    return notes


def contrasts(analysis: Analysis) -> Table:
    """Return the contrasts with intervals, tests and verdicts."""
    listed, headline, over_both = analysis.contrasts, analysis.metrics[0], _over_both(analysis)
    num_tested = sum(item.difference.p_value is not None for item in listed)
    rows = [
        {
            "contrast": pair_name(item),
            "chosen as": plain(item.pair.about) or DASH,
            "difference": difference(item, headline),
            "p, sign flips": p_value(item.difference.p_value),
            "p after Holm": p_value(item.adjusted_p_value),
            over_both: over_images(item, headline),
            f"equivalent within {analysis.margin:g}": equivalence(item),
            MCNEMAR: two_models(item),
            "verdict": item.verdict,
            "seeds": str(item.difference.num_seeds),
            "compute": times(item.compute_ratio),
        }
        for item in listed
    ]
    tests = f", then after Holm over {num_tested}" if num_tested else ""
    caption = (
        f"{_difference_caption(analysis)} p: two-sided exact sign-flip test of the seeds{tests}. "
        f"{capitalize(over_both)}: 95 % bootstrap interval of the difference, in points; it is not a "
        "test. Equivalent: two one-sided t tests at 5 %, with the larger p-value."
    )
    if any(item.two_models for item in listed):
        caption += f" {MCNEMAR}: numbers of images that only the first and only the second classifies correctly."
    notes = _notes_of_comparisons(listed)
    if any(item.difference.p_value is None for item in listed):
        notes.insert(0, f"{DASH} {NO_P_VALUE}")
    return _table("contrasts", "Contrasts", caption, rows, notes)


def checks(analysis: Analysis) -> Table:
    """Return the checks of the study: expected and found results."""
    outcomes = {True: "yes", False: "NO", None: "too few seeds to tell"}
    rows = [
        {
            "check": pair_name(item),
            "expected": item.pair.expect,
            "found": item.verdict,
            "difference": difference(item, analysis.metrics[0]),
            "holds?": outcomes[item.holds],
            "seeds": str(item.difference.num_seeds),
            "compute": times(item.compute_ratio),
        }
        for item in analysis.checks
    ]
    caption = (
        f"Pairs with a known result, which test the study itself. {_difference_caption(analysis)} A check holds if its "
        "interval is as expected."
    )
    return _table("checks", "Checks", caption, rows, _notes_of_comparisons(analysis.checks))


def others(analysis: Analysis) -> Table:
    """Return the comparisons of the other variants with the reference: estimates and intervals."""
    over_both = _over_both(analysis)
    rows = [
        {
            "variants": pair_name(item),
            "difference": difference(item, analysis.metrics[0]),
            over_both: over_images(item, analysis.metrics[0]),
            "by the interval": item.verdict,
            "seeds": str(item.difference.num_seeds),
            "compute": times(item.compute_ratio),
        }
        for item in analysis.others
    ]
    caption = (
        f"Estimates without tests: no p-values, and intervals not adjusted for multiple comparisons. "
        f"{_difference_caption(analysis)} {capitalize(over_both)}: 95 % bootstrap interval, in points."
    )
    return _table("others", "The other variants", caption, rows, _notes_of_comparisons(analysis.others))


class Robustness(NamedTuple):
    """The texts of a measure of robustness."""

    title: str
    axis: str  # label of the horizontal axis, with unit
    images: str  # how the images are changed


ROBUSTNESS = {
    "occlusion": Robustness(
        "Robustness: occlusion",
        "occluded by a square (% of the area)",
        "with a square of each image occluded, at a random place that is the same for all variants",
    ),
    "offsets": Robustness(
        "Robustness: off-center crops",
        "offset of the crop (pixels)",
        "cropped at this offset up, down, left or right, averaged over the four directions",
    ),
}
"""Name in a record -> texts."""


def robustness(analysis: Analysis, name: str) -> Table:
    """Return the error, or top1, of every variant over the occluded fraction or the offset of the crop."""
    metric = accuracy_metric(analysis.metrics[0])
    curves = {variant.name: variant.robustness[name] for variant in analysis.variants if name in variant.robustness}
    places = dict.fromkeys(
        f"{place:.3g}" for place in sorted({place for curve in curves.values() for place in curve.at})
    )
    rows = []
    for variant, curve in curves.items():
        entries = dict(
            zip((f"{at:.3g}" for at in curve.at), _points(as_headline(curve, analysis), metric), strict=True)
        )
        rows.append({"variant": plain(variant), **{place: entries.get(place, DASH) for place in places}})
    texts = ROBUSTNESS[name]
    caption = (
        f"{capitalize(metric_name(metric))} on {robustness_images(analysis, name)}. Columns: {texts.axis}. Mean of the "
        f"seeds {PLUS_MINUS} half the width of its 95 % t interval."
    )
    return _table(name, texts.title, caption, rows, [])


def robustness_images(analysis: Analysis, name: str) -> str:
    """Describe the images on which robustness was measured."""
    counts = analysis.num_robustness_images
    number_of = f"{min(counts):,} test images" if len(counts) == 1 else "test images"
    return f"{number_of} {ROBUSTNESS[name].images}"


def as_headline(curve: Curve, analysis: Analysis) -> Curve:
    """Convert a curve of top1 to the metric that is shown: top1 or error."""
    if accuracy_metric(analysis.metrics[0]) == "top1":
        return curve
    mean, low, high = ([100 - value for value in values] for values in (curve.mean, curve.high, curve.low))
    return curve._replace(mean=mean, low=low, high=high)


def _points(curve: Curve, metric: str) -> list[str]:
    return [
        number(middle, metric) + (f" {PLUS_MINUS} {number(high - middle, metric)}" if high > middle else "")
        for middle, high in zip(curve.mean, curve.high, strict=True)
    ]


def _over_both(analysis: Analysis) -> str:
    """Return the title of the bootstrap interval, which is of correct predictions, whatever the headline metric."""
    return f"{accuracy_metric(analysis.metrics[0])} over seeds and images"


def _difference_caption(analysis: Analysis) -> str:
    metric = analysis.metrics[0]
    sign = "positive" if METRICS[metric].higher_is_better else "negative"
    return (
        f"Difference in {metric} ({unit_of_differences(metric)}), first {MINUS} second, on "
        f"{analysis.num_test_images:,} test images at the {PROTOCOLS['final']}: mean of the paired differences "
        f"[95 % t interval]; {sign} is better for the first."
    )


def _notes_of_comparisons(listed: Sequence[Comparison]) -> list[str]:
    unequal = [times(item.compute_ratio) for item in listed if is_unequal(item.compute_ratio)]
    if not unequal:
        return []
    return [f"({unequal[0]}) unequal compute: the first uses {unequal[0]} the samples seen of the second"]


def _metrics(metrics: Sequence[str]) -> str:
    """Return the names of metrics with their direction: `Error (%, lower is better), nll (nats, lower is better)`."""
    up = [metric for metric in metrics if METRICS[metric].higher_is_better]
    down = [metric for metric in metrics if not METRICS[metric].higher_is_better]
    listed = [
        f"{', '.join(metric_name(metric) for metric in group)} ({word} is better)"
        for group, word in ((up, "higher"), (down, "lower"))
        if group
    ]
    return capitalize(", ".join(listed))
