"""Draw a study: points with intervals, curves over epochs, error against image passes."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from agmax.reports import style
from agmax.reports.formatting import accuracy_metric, begun, marked, measured, published
from agmax.reports.tables import ROBUSTNESS, robustness_images, shown
from agmax.studies.analysis import Analysis, Curve, Summary

BAND = 0.13  # opacity
APART = 0.011  # from one end to the next of arms of equal compute, as a share of the most image passes


class Drawing(NamedTuple):
    """A figure with what is said of it."""

    name: str  # of its file
    figure: Figure
    caption: str


def drawings(analysis: Analysis) -> list[Drawing]:
    """Return the figures of an analysis, those of curves where there are any."""
    made = [Drawing("points", points(analysis), _caption_of_points(analysis))]
    for name, draw, caption in CURVES:
        if curve_name(analysis, NAMES[name]):
            made.append(Drawing(name, draw(analysis), caption(analysis)))
    for name in ROBUSTNESS:
        if any(name in arm.robustness for arm in analysis.arms):
            made.append(Drawing(name, robustness(analysis, name), _caption_of_robustness(analysis, name)))
    return made


def points(analysis: Analysis) -> Figure:
    """Draw the headline metric of every arm with its 95 % interval, its replicates and its published number."""
    metric = analysis.metrics[0]
    labels = [label(arm) for arm in analysis.arms]
    heights = [max(1.4, text.count("\n") + 1.4) for text in labels]
    with style.figure(0.95 + style.LINE * sum(heights)) as (figure, axes):
        middles = [sum(heights[:n]) + heights[n] / 2 for n in range(len(heights))]
        for middle, arm, look in zip(middles, analysis.arms, style.looks(len(analysis.arms)), strict=True):
            mean = arm.means["final"][metric]
            half = mean.interval.high - mean.mean if mean.interval else None
            single = arm.values[metric]
            axes.plot(single, [middle + 0.42] * len(single), ".", color=look.color, alpha=0.7, markersize=4)
            axes.errorbar(mean.mean, middle, xerr=half, fmt="o", color=look.color, markersize=6, linewidth=2)
            paper = published(arm, metric)
            if paper is not None:
                axes.plot(paper, middle, "D", color=style.INK, markerfacecolor="none", markersize=7, clip_on=False)
        axes.set_yticks(middles, labels)
        axes.set_ylim(sum(heights), 0)  # the first arm on top
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(axis="x")
        axes.set_xlabel(f"{measured(metric)} on {analysis.num_test_images:,} test images, final epoch")
        figure.legend(handles=_legend_of_points(analysis), loc="outside lower center", ncols=3)
    return figure


def _legend_of_points(analysis: Analysis) -> list[Line2D]:
    handles = [
        Line2D([], [], color=style.GRID, marker="o", markersize=6, linewidth=2, label="mean and 95 % interval"),
        Line2D([], [], color=style.GRID, marker=".", markersize=4, linestyle="", label="one replicate"),
    ]
    if any(published(arm, analysis.metrics[0]) is not None for arm in analysis.arms):
        look: dict[str, Any] = {"marker": "D", "markersize": 7, "markerfacecolor": "none", "linestyle": ""}
        handles.append(Line2D([], [], color=style.INK, label="published", **look))
    return handles


def curves(analysis: Analysis) -> Figure:
    """Draw the error, or top1, of every arm over the epochs: on validation images where there are some."""
    name = curve_name(analysis, NAMES["curves"])
    with style.figure(_height_of_curves(analysis)) as (figure, axes):
        for arm, look in zip(analysis.arms, style.looks(len(analysis.arms)), strict=True):
            if name in arm.curves:
                curve = shown(arm.curves[name], analysis)
                _draw_curve(axes, curve.at, curve, look, label(arm))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _finish(figure, axes, analysis, name)
    return figure


def error_against_image_passes(analysis: Analysis) -> Figure:
    """Draw the error, or top1, of every arm over the image passes it has cost, its end with its 95 % interval."""
    name = curve_name(analysis, NAMES["image_passes"])
    metric = accuracy_metric(analysis.metrics[0])
    apart = APART * max(arm.image_passes for arm in analysis.arms)
    num_drawn = Counter[int]()
    with style.figure(_height_of_curves(analysis)) as (figure, axes):
        for arm, look in zip(analysis.arms, style.looks(len(analysis.arms)), strict=True):
            if name not in arm.curves:
                continue
            curve = shown(arm.curves[name], analysis)
            passes = [epoch * arm.passes_per_epoch for epoch in curve.at]
            _draw_curve(axes, passes, curve, look, label(arm), with_band=False)
            end = arm.means["final"][metric]
            half = end.interval.high - end.mean if end.interval else None
            at = arm.image_passes + apart * num_drawn[arm.image_passes]
            num_drawn[arm.image_passes] += 1
            axes.errorbar(at, end.mean, yerr=half, fmt=look.marker, color=look.color, markersize=5)
        if analysis.budget:
            axes.axvline(analysis.budget, color=style.GRID, linewidth=0.8, linestyle=(0, (6, 4)))
        axes.set_xlabel("image passes (images times views times epochs)")
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.set_xlim(left=0)
        _finish(figure, axes, analysis, name)
    return figure


def robustness(analysis: Analysis, name: str) -> Figure:
    """Draw the error, or top1, of every arm as less of the images is visible."""
    with style.figure(_height_of_curves(analysis)) as (figure, axes):
        ends = []
        for arm, look in zip(analysis.arms, style.looks(len(analysis.arms)), strict=True):
            if name in arm.robustness:
                curve = shown(arm.robustness[name], analysis)
                _draw_curve(axes, curve.at, curve, look, label(arm))
                ends.append(curve.mean[-1])
        axes.set_xlabel(ROBUSTNESS[name].axis)
        axes.set_ylabel(measured(accuracy_metric(analysis.metrics[0])))
        axes.set_ylim(0, 100)  # an interval of few replicates goes further
        axes.grid()
        _list_arms(figure, axes, ends)
    return figure


def label(arm: Summary) -> str:
    """Return the name of an arm as it stands in a figure."""
    return style.lines(marked(arm.name, arm.compute))


def curve_name(analysis: Analysis, names: Sequence[str]) -> str:
    """Return the first of several curves that an arm has, or nothing."""
    return next((name for name in names if any(name in arm.curves for arm in analysis.arms)), "")


def late_range(curve: Curve) -> tuple[float, float]:
    """Return the lowest and the highest value of the last third of training, intervals included."""
    late = [n for n, epoch in enumerate(curve.at) if 3 * epoch >= 2 * curve.at[-1]]
    return min(curve.low[n] for n in late), max(curve.high[n] for n in late)


def _draw_curve(
    axes: Axes, at: Sequence[float], curve: Curve, look: style.Look, name: str, *, with_band: bool = True
) -> None:
    every = max(1, len(at) // 10)
    line: dict[str, Any] = {"color": look.color, "linestyle": look.dashes, "linewidth": 1.5}
    axes.plot(at, curve.mean, label=name, marker=look.marker, markersize=3.5, markevery=every, **line)
    if with_band:
        axes.fill_between(at, curve.low, curve.high, color=look.color, alpha=BAND, linewidth=0)


def _finish(figure: Figure, axes: Axes, analysis: Analysis, name: str) -> None:
    """Name the vertical axis, let it show the last third of training, and list the arms as they end."""
    drawn = [shown(arm.curves[name], analysis) for arm in analysis.arms if name in arm.curves]
    lows, highs = zip(*(late_range(curve) for curve in drawn), strict=True)
    padding = 0.06 * (max(highs) - min(lows)) or 1.0
    axes.set_ylim(min(lows) - padding, max(highs) + padding)
    axes.grid()
    axes.set_ylabel(f"{name.split('_')[0]} {measured(accuracy_metric(analysis.metrics[0]))}")
    _list_arms(figure, axes, [curve.mean[-1] for curve in drawn])


def _list_arms(figure: Figure, axes: Axes, ends: Sequence[float]) -> None:
    """List the arms from the highest end of a line to the lowest."""
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
    return max(4.2, 0.6 + 0.9 * style.LINE * sum(label(arm).count("\n") + 1 for arm in analysis.arms))


def _caption_of_points(analysis: Analysis) -> str:
    return (
        f"{begun(measured(analysis.metrics[0]))} of {len(analysis.arms)} arms on {analysis.num_test_images:,} test "
        "images at the final epoch, with the 95 % t interval of each arm alone. Arms are compared replicate by "
        "replicate: intervals that overlap do not say that two arms cannot be told apart."
    )


def _caption_of_curves(analysis: Analysis) -> str:
    return (
        f"{_what_is_drawn(analysis, 'curves')} over the epochs: mean of the replicates and its 95 % t interval as a "
        f"band. {CUT_OFF}"
    )


def _caption_of_passes(analysis: Analysis) -> str:
    return (
        f"{_what_is_drawn(analysis, 'image_passes')} against the images that training has gone through, every view "
        "counted: arms are equal in compute where they end at the same place. The bars at the ends, side by side where "
        f"lines end together, are 95 % t intervals on the test images at the final epoch. {CUT_OFF}"
    )


def _caption_of_robustness(analysis: Analysis, name: str) -> str:
    metric = begun(measured(accuracy_metric(analysis.metrics[0])))
    images = robustness_images(analysis, name)
    return f"{metric} on {images}: mean of the replicates and its 95 % t interval as a band."


def _what_is_drawn(analysis: Analysis, name: str) -> str:
    images = curve_name(analysis, NAMES[name]).split("_")[0]
    return f"{begun(measured(accuracy_metric(analysis.metrics[0])))} on the {images} images"


CUT_OFF = "The vertical axis shows the last third of every training; what lies beyond is cut off."

NAMES = {"curves": ("validation_top1", "test_top1"), "image_passes": ("test_top1", "validation_top1")}
"""Figure -> the curves it can be of, the first that is there."""

CURVES: tuple[tuple[str, Callable[[Analysis], Figure], Callable[[Analysis], str]], ...] = (
    ("curves", curves, _caption_of_curves),
    ("image_passes", error_against_image_passes, _caption_of_passes),
)
