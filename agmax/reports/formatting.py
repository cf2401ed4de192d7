"""Format the names and numbers of a study for tables and figures."""

from agmax.core.errors import printable
from agmax.evaluation.metrics import METRICS
from agmax.studies.analysis import Comparison, VariantSummary
from agmax.studies.intervals import Interval, Mean

PLUS_MINUS, MINUS, TIMES, DASH = "±", "−", "×", "–"  # noqa: RUF001  the writers translate them

UNEQUAL_COMPUTE = 0.01
"""Relative difference in samples seen above which two variants have unequal compute."""


def plain(text: str) -> str:
    """Return a user's text as one printable line."""
    return printable(" ".join(text.split()))


def capitalize(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def is_unequal(ratio: float) -> bool:
    """Return whether a ratio of samples seen differs from 1."""
    return abs(ratio - 1) > UNEQUAL_COMPUTE


def with_compute_ratio(name: str, ratio: float | None) -> str:
    """Return a name, followed by the ratio of its samples seen if that is not 1: `baseline (0.5×)`."""  # noqa: RUF002
    return plain(name) if ratio is None or not is_unequal(ratio) else f"{plain(name)} ({times(ratio)})"


def pair_name(item: Comparison) -> str:
    """Return the name of a pair, with its ratio of samples seen if that is not 1."""
    return with_compute_ratio(f"{item.pair.first} against {item.pair.second}", item.compute_ratio)


def metric_name(metric: str) -> str:
    """Return the name of a metric with its unit."""
    return f"{metric} ({METRICS[metric].unit})"


def accuracy_metric(metric: str) -> str:
    """Return the metric of correct predictions with the direction of `metric`: top1 if higher is better, else error."""
    return "top1" if METRICS[metric].higher_is_better else "error"


def unit_of_differences(metric: str) -> str:
    """Return the unit of a difference: points for percentages, else the unit of the metric."""
    unit = METRICS[metric].unit
    return "points" if unit == "%" else unit


def number(value: float, metric: str) -> str:
    """Format a value of a metric."""
    return f"{value:.{METRICS[metric].decimals}f}"


def signed_number(value: float, metric: str) -> str:
    """Format a difference with its sign; a difference that rounds to zero is positive."""
    decimals = METRICS[metric].decimals
    return f"{round(value, decimals) + 0.0:+.{decimals}f}".replace("-", MINUS)


def mean(value: Mean | None, metric: str) -> str:
    """Format a mean and, if it has an interval, half the width of the interval."""
    if value is None:
        return DASH
    text = number(value.mean, metric)
    return text if value.interval is None else f"{text} {PLUS_MINUS} {number(value.interval.high - value.mean, metric)}"


def interval(value: Interval | None, metric: str) -> str:
    """Format the ends of an interval of a difference; an empty string without one."""
    return "" if value is None else f"[{signed_number(value.low, metric)}, {signed_number(value.high, metric)}]"


def over_images(item: Comparison, metric: str) -> str:
    """Format the bootstrap interval of the difference in error, or in top1, which has the opposite sign."""
    if item.bootstrap is None:
        return DASH
    low, high = item.bootstrap
    is_top1 = accuracy_metric(metric) == "top1"
    return interval(Interval(-high, -low) if is_top1 else item.bootstrap, accuracy_metric(metric))


def difference(item: Comparison, metric: str) -> str:
    """Format a difference and its interval."""
    return f"{signed_number(item.difference.mean, metric)} {interval(item.difference.interval, metric)}".strip()


def p_value(value: float | None) -> str:
    """Format a p-value with three digits; below 0.001 as a bound."""
    if value is None:
        return DASH
    return f"{value:.3g}" if value >= 0.001 else "< 0.001"


def equivalence(item: Comparison) -> str:
    """Format the result of the test of equivalence, with its p-value if it has one."""
    result = "yes" if item.equivalence.is_equivalent else "no"
    return result if item.equivalence.p_value is None else f"{result} (p {p_value(item.equivalence.p_value)})"


def two_models(item: Comparison) -> str:
    """Format the test between two single models, if there is one."""
    if item.two_models is None:
        return DASH
    first, second, p = item.two_models
    return f"{first} against {second} (p {p_value(p)})"


def times(ratio: float) -> str:
    """Format a ratio with three digits."""
    return f"{ratio:.3g}{TIMES}"


def seeds(variant: VariantSummary) -> str:
    """Format the number of finished seeds, with the planned number if some are missing."""
    finished = str(variant.num_seeds)
    return finished if variant.num_seeds >= variant.num_planned else f"{finished} of {variant.num_planned}"


def published_number(variant: VariantSummary, metric: str) -> float | None:
    """Return the published number of a metric, computed from its complement (top1 and error) if only that is given."""
    if metric in variant.paper:
        return variant.paper[metric]
    others = [METRICS[metric].complement, *(name for name, other in METRICS.items() if other.complement == metric)]
    return next((100 - variant.paper[other] for other in others if other in variant.paper), None)


def sentence(item: Comparison, metric: str) -> str:
    """Describe a comparison in one line."""
    pair, paired = item.pair, item.difference
    text = f"{pair.first} against {pair.second}"
    if pair.about:
        text += f" ({pair.about})"
    if is_unequal(item.compute_ratio):
        text += f", at {item.compute_ratio:.3g} times the samples seen"
    text += f": {metric} {paired.mean:+.3g} {unit_of_differences(metric)}"
    if paired.interval is not None:
        text += f" [{paired.interval.low:+.3g}, {paired.interval.high:+.3g}]"
    if item.adjusted_p_value is not None:
        text += f", p {item.adjusted_p_value:.3g} after Holm"
    plural = "" if paired.num_seeds == 1 else "s"
    text += f", {paired.num_seeds} seed{plural}: {item.verdict}"
    if item.two_models is not None:
        first, second, p = item.two_models
        text += f"; only the first of these two models is correct on {first} images, only the second on {second}"
        text += f": McNemar p {p:.3g}"
    if pair.expect:
        outcome = {True: "as expected", False: "NOT as expected", None: "too few seeds to tell"}[item.holds]
        return f"check: {text}; expected {pair.expect}, {outcome}"
    return text
