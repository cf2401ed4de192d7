"""Draw the figures of a study: points with intervals, curves over epochs and samples seen, robustness."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from agmax.reports import style
from agmax.reports.formatting import accuracy_metric, capitalize, metric_name, published_number, with_compute_ratio
from agmax.reports.tables import ROBUSTNESS, as_headline, robustness_images
from agmax.studies.analysis import Analysis, Curve, VariantSummary

BAND = 0.13  # opacity
SPACING = 0.011  # between the ends of variants of equal compute, as a fraction of the most samples seen


class Drawing(NamedTuple):
    """A figure with its name and caption."""

    name: str  # of its file, without ending
    figure: Figure
    caption: str


def drawings(analysis: Analysis) -> list[Drawing]:
    """Return the figures of an analysis: points, then curves and robustness where they were measured."""
    listed = [Drawing("points", points(analysis), _caption_of_points(analysis))]
    for name, draw, caption in CURVES:
        if curve_name(analysis, NAMES[name]):
            listed.append(Drawing(name, draw(analysis), caption(analysis)))
    for name in ROBUSTNESS:
        if any(name in variant.robustness for variant in analysis.variants):
            listed.append(Drawing(name, robustness(analysis, name), _caption_of_robustness(analysis, name)))
    return listed


def points(analysis: Analysis) -> Figure:
    """Draw the headline metric of every variant: mean with 95 % interval, each seed, and the published number."""
    metric = analysis.metrics[0]
    labels = [label(variant) for variant in analysis.variants]
    heights = [max(1.4, text.count("\n") + 1.4) for text in labels]
    with style.figure(0.95 + style.LINE * sum(heights)) as (figure, axes):
        centers = [sum(heights[:n]) + heights[n] / 2 for n in range(len(heights))]
        for center, variant, line_style in zip(
            centers, analysis.variants, style.line_styles(len(analysis.variants)), strict=True
        ):
            mean = variant.means["final"][metric]
            half = mean.interval.high - mean.mean if mean.interval else None
            by_seed = variant.values[metric]
            axes.plot(by_seed, [center + 0.42] * len(by_seed), ".", color=line_style.color, alpha=0.7, markersize=4)
            axes.errorbar(mean.mean, center, xerr=half, fmt="o", color=line_style.color, markersize=6, linewidth=2)
            paper = published_number(variant, metric)
            if paper is not None:
                axes.plot(paper, center, "D", color=style.INK, markerfacecolor="none", markersize=7, clip_on=False)
        axes.set_yticks(centers, labels)
        axes.set_ylim(sum(heights), 0)  # the first variant on top
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(axis="x")
        axes.set_xlabel(f"{metric_name(metric)} on {analysis.num_test_images:,} test images, final epoch")
        figure.legend(handles=_legend_of_points(analysis), loc="outside lower center", ncols=3)
    return figure


def _legend_of_points(analysis: Analysis) -> list[Line2D]:
    handles = [
        Line2D([], [], color=style.GRID, marker="o", markersize=6, linewidth=2, label="mean and 95 % interval"),
        Line2D([], [], color=style.GRID, marker=".", markersize=4, linestyle="", label="one seed"),
    ]
    if any(published_number(variant, analysis.metrics[0]) is not None for variant in analysis.variants):
        line_style: dict[str, Any] = {"marker": "D", "markersize": 7, "markerfacecolor": "none", "linestyle": ""}
        handles.append(Line2D([], [], color=style.INK, label="published", **line_style))
    return handles


def curves(analysis: Analysis) -> Figure:
    """Draw the error, or top1, of every variant over the epochs, on the validation images if there are any."""
    name = curve_name(analysis, NAMES["curves"])
    with style.figure(_height_of_curves(analysis)) as (figure, axes):
        for variant, line_style in zip(analysis.variants, style.line_styles(len(analysis.variants)), strict=True):
            if name in variant.curves:
                curve = as_headline(variant.curves[name], analysis)
                _draw_curve(axes, curve.at, curve, line_style, label(variant))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _finish_axes(figure, axes, analysis, name)
    return figure


def error_against_samples_seen(analysis: Analysis) -> Figure:
    """Draw the error, or top1, of every variant over the samples seen, the final mean with its 95 % interval."""
    name = curve_name(analysis, NAMES["samples_seen"])
    metric = accuracy_metric(analysis.metrics[0])
    spacing = SPACING * max(variant.samples_seen for variant in analysis.variants)
    num_drawn = Counter[int]()
    with style.figure(_height_of_curves(analysis)) as (figure, axes):
        for variant, line_style in zip(analysis.variants, style.line_styles(len(analysis.variants)), strict=True):
            if name not in variant.curves:
                continue
            curve = as_headline(variant.curves[name], analysis)
            samples = [epoch * variant.samples_per_epoch for epoch in curve.at]
            _draw_curve(axes, samples, curve, line_style, label(variant), with_band=False)
            final = variant.means["final"][metric]
            half = final.interval.high - final.mean if final.interval else None
            at = variant.samples_seen + spacing * num_drawn[variant.samples_seen]
            num_drawn[variant.samples_seen] += 1
            axes.errorbar(at, final.mean, yerr=half, fmt=line_style.marker, color=line_style.color, markersize=5)
        if analysis.budget:
            axes.axvline(analysis.budget, color=style.GRID, linewidth=0.8, linestyle=(0, (6, 4)))
        axes.set_xlabel("samples seen (images times views times epochs)")
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.set_xlim(left=0)
        _finish_axes(figure, axes, analysis, name)
    return figure


def robustness(analysis: Analysis, name: str) -> Figure:
    """Draw the error, or top1, of every variant over the occluded fraction or the offset of the crop."""
    with style.figure(_height_of_curves(analysis)) as (figure, axes):
        ends = []
        for variant, line_style in zip(analysis.variants, style.line_styles(len(analysis.variants)), strict=True):
            if name in variant.robustness:
                curve = as_headline(variant.robustness[name], analysis)
                _draw_curve(axes, curve.at, curve, line_style, label(variant))
                ends.append(curve.mean[-1])
        axes.set_xlabel(ROBUSTNESS[name].axis)
        axes.set_ylabel(metric_name(accuracy_metric(analysis.metrics[0])))
        axes.set_ylim(0, 100)  # an interval of few seeds may be wider
        axes.grid()
        _add_legend(figure, axes, ends)
    return figure


def label(variant: VariantSummary) -> str:
    """Return the name of a variant for a figure, in lines."""
    return style.lines(with_compute_ratio(variant.name, variant.compute))


def curve_name(analysis: Analysis, names: Sequence[str]) -> str:
    """Return the first name of a curve that any variant has, or an empty string."""
    return next((name for name in names if any(name in variant.curves for variant in analysis.variants)), "")


def late_range(curve: Curve) -> tuple[float, float]:
    """Return the lowest and highest value in the last third of training, intervals included."""
    late = [n for n, epoch in enumerate(curve.at) if 3 * epoch >= 2 * curve.at[-1]]
    return min(curve.low[n] for n in late), max(curve.high[n] for n in late)


def _draw_curve(
    axes: Axes, at: Sequence[float], curve: Curve, line_style: style.LineStyle, name: str, *, with_band: bool = True
) -> None:
    every = max(1, len(at) // 10)
    line: dict[str, Any] = {"color": line_style.color, "linestyle": line_style.dashes, "linewidth": 1.5}
    axes.plot(at, curve.mean, label=name, marker=line_style.marker, markersize=3.5, markevery=every, **line)
    if with_band:
        axes.fill_between(at, curve.low, curve.high, color=line_style.color, alpha=BAND, linewidth=0)


def _finish_axes(figure: Figure, axes: Axes, analysis: Analysis, name: str) -> None:
    """Label the vertical axis, limit it to the last third of training, and add the legend."""
    drawn = [as_headline(variant.curves[name], analysis) for variant in analysis.variants if name in variant.curves]
    lows, highs = zip(*(late_range(curve) for curve in drawn), strict=True)
    padding = 0.06 * (max(highs) - min(lows)) or 1.0
    axes.set_ylim(min(lows) - padding, max(highs) + padding)
    axes.grid()
    axes.set_ylabel(f"{name.split('_')[0]} {metric_name(accuracy_metric(analysis.metrics[0]))}")
    _add_legend(figure, axes, [curve.mean[-1] for curve in drawn])


def _add_legend(figure: Figure, axes: Axes, ends: Sequence[float]) -> None:
    """Add a legend in the order of the lines' last values, highest first."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(ends)), key=lambda n: -ends[n])
    figure.legend(
        [handles[n] for n in order],
        [labels[n] for n in order],
        loc="outside right upper",
        fontsize=8,
        handlelength=3.2,
    )


def _height_of_curves(analysis: Analysis) -> float:
    return max(4.2, 0.6 + 0.9 * style.LINE * sum(label(variant).count("\n") + 1 for variant in analysis.variants))


def _caption_of_points(analysis: Analysis) -> str:
    return (
        f"{capitalize(metric_name(analysis.metrics[0]))} of {len(analysis.variants)} variants on "
        f"{analysis.num_test_images:,} test images at the final epoch, with the 95 % t interval of each variant alone. "
        "Variants are compared seed by seed: overlapping intervals do not mean that two variants are indistinguishable."
    )


def _caption_of_curves(analysis: Analysis) -> str:
    return f"{_title(analysis, 'curves')} over the epochs: mean over seeds and its 95 % t interval as a band. {CUT_OFF}"


def _caption_of_samples(analysis: Analysis) -> str:
    return (
        f"{_title(analysis, 'samples_seen')} against the samples seen in training, every view counted: "
        "variants of equal compute end at the same x. The bars at the ends are 95 % t intervals on the test images at "
        f"the final epoch, side by side where lines end at the same x. {CUT_OFF}"
    )


def _caption_of_robustness(analysis: Analysis, name: str) -> str:
    metric = capitalize(metric_name(accuracy_metric(analysis.metrics[0])))
    images = robustness_images(analysis, name)
    return f"{metric} on {images}: mean over seeds and its 95 % t interval as a band."


def _title(analysis: Analysis, name: str) -> str:
    images = curve_name(analysis, NAMES[name]).split("_")[0]
    return f"{capitalize(metric_name(accuracy_metric(analysis.metrics[0])))} on the {images} images"


CUT_OFF = "The vertical axis shows the range of the last third of training; values outside are cut off."

NAMES = {"curves": ("validation_top1", "test_top1"), "samples_seen": ("test_top1", "validation_top1")}
"""Figure -> names of curves, of which the first that exists is drawn."""

CURVES: tuple[tuple[str, Callable[[Analysis], Figure], Callable[[Analysis], str]], ...] = (
    ("curves", curves, _caption_of_curves),
    ("samples_seen", error_against_samples_seen, _caption_of_samples),
)
