"""How names and numbers of a study are written, in tables and figures alike."""

from agmax.core.errors import printable
from agmax.evaluation.metrics import METRICS
from agmax.studies.analysis import Comparison, VariantSummary
from agmax.studies.intervals import Interval, Mean

PLUS_MINUS, MINUS, TIMES, DASH = "±", "−", "×", "–"  # noqa: RUF001  what the formats translate

UNEQUAL_COMPUTE = 0.01
"""Relative difference in samples seen above which two variants are not at equal compute."""


def plain(text: str) -> str:
    """Return a user's text as one line that can be printed."""
    return printable(" ".join(text.split()))


def capitalize(text: str) -> str:
    """Return words as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def is_unequal(ratio: float) -> bool:
    """Tell whether a ratio of samples seen is another than 1."""
    return abs(ratio - 1) > UNEQUAL_COMPUTE


def with_compute_ratio(name: str, ratio: float | None) -> str:
    """Return a name, with the ratio of its samples seen where that is not 1: `baseline (0.5×)`."""  # noqa: RUF002
    return plain(name) if ratio is None or not is_unequal(ratio) else f"{plain(name)} ({times(ratio)})"


def pair_name(item: Comparison) -> str:
    """Name a pair, marked where its variants are not at equal compute."""
    return with_compute_ratio(f"{item.pair.first} against {item.pair.second}", item.compute_ratio)


def metric_name(metric: str) -> str:
    """Name a metric with its unit."""
    return f"{metric} ({METRICS[metric].unit})"


def accuracy_metric(metric: str) -> str:
    """Return what right and wrong answers measure beside a metric: top1 where higher is better, else error."""
    return "top1" if METRICS[metric].higher_is_better else "error"


def unit_of_differences(metric: str) -> str:
    """Return the unit of a difference: percentages differ by points."""
    unit = METRICS[metric].unit
    return "points" if unit == "%" else unit


def number(value: float, metric: str) -> str:
    """Write a value of a metric."""
    return f"{value:.{METRICS[metric].decimals}f}"


def signed(value: float, metric: str) -> str:
    """Write a difference with its sign; one that rounds to zero is positive."""
    decimals = METRICS[metric].decimals
    return f"{round(value, decimals) + 0.0:+.{decimals}f}".replace("-", MINUS)


def mean(value: Mean | None, metric: str) -> str:
    """Write a mean and half the width of its interval, where there is one."""
    if value is None:
        return DASH
    text = number(value.mean, metric)
    return text if value.interval is None else f"{text} {PLUS_MINUS} {number(value.interval.high - value.mean, metric)}"


def interval(value: Interval | None, metric: str) -> str:
    """Write the ends of an interval of a difference, nothing where there is none."""
    return "" if value is None else f"[{signed(value.low, metric)}, {signed(value.high, metric)}]"


def over_images(item: Comparison, metric: str) -> str:
    """Write the bootstrap interval, of the difference in error or in top1, which is the same with the other sign."""
    if item.bootstrap is None:
        return DASH
    low, high = item.bootstrap
    is_top1 = accuracy_metric(metric) == "top1"
    return interval(Interval(-high, -low) if is_top1 else item.bootstrap, accuracy_metric(metric))


def difference(item: Comparison, metric: str) -> str:
    """Write a difference and its interval."""
    return f"{signed(item.difference.mean, metric)} {interval(item.difference.interval, metric)}".strip()


def p_value(value: float | None) -> str:
    """Write a p-value to three digits, as a bound below 0.001."""
    if value is None:
        return DASH
    return f"{value:.3g}" if value >= 0.001 else "< 0.001"


def equivalence(item: Comparison) -> str:
    """Say whether two variants are equivalent, with the p-value where there is one."""
    found = "yes" if item.equivalence.is_equivalent else "no"
    return found if item.equivalence.p_value is None else f"{found} (p {p_value(item.equivalence.p_value)})"


def two_models(item: Comparison) -> str:
    """Write the test between two single models, where there is one."""
    if item.two_models is None:
        return DASH
    first, second, p = item.two_models
    return f"{first} against {second} (p {p_value(p)})"


def times(ratio: float) -> str:
    """Write a ratio to three digits."""
    return f"{ratio:.3g}{TIMES}"


def seeds(variant: VariantSummary) -> str:
    """Write how many seeds are finished, and of how many where some are not."""
    finished = str(variant.num_seeds)
    return finished if variant.num_seeds >= variant.num_planned else f"{finished} of {variant.num_planned}"


def published_number(variant: VariantSummary, metric: str) -> float | None:
    """Return the published number of a metric; a metric and its complement, top1 and error, tell each other."""
    if metric in variant.paper:
        return variant.paper[metric]
    others = [METRICS[metric].complement, *(name for name, other in METRICS.items() if other.complement == metric)]
    return next((100 - variant.paper[other] for other in others if other in variant.paper), None)


def sentence(item: Comparison, metric: str) -> str:
    """Say in one line what a comparison shows."""
    pair, found = item.pair, item.difference
    text = f"{pair.first} against {pair.second}"
    if pair.about:
        text += f" ({pair.about})"
    if is_unequal(item.compute_ratio):
        text += f", at {item.compute_ratio:.3g} times the samples seen"
    text += f": {metric} {found.mean:+.3g} {unit_of_differences(metric)}"
    if found.interval is not None:
        text += f" [{found.interval.low:+.3g}, {found.interval.high:+.3g}]"
    if item.adjusted_p_value is not None:
        text += f", p {item.adjusted_p_value:.3g} after Holm"
    plural = "" if found.num_seeds == 1 else "s"
    text += f", {found.num_seeds} seed{plural}: {item.verdict}"
    if item.two_models is not None:
        first, second, p = item.two_models
        text += f"; of these two models, right alone on {first} and {second} images, McNemar p {p:.3g}"
    if pair.expect:
        came = {True: "as expected", False: "NOT as expected", None: "too few seeds to tell"}[item.holds]
        return f"check: {text}; expected {pair.expect}, {came}"
    return text
