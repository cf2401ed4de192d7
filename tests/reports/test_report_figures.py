"""Figures of a study show what its numbers say."""

import io
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from agmax.reports import figures, page, style
from agmax.studies.analysis import Pair
from helpers.analyses import AROUND, BUDGET, RISING, STEADY, analyzed, many, small, variant


def errorbars(figure: Figure) -> list[ErrorbarContainer]:
    return [item for item in figure.axes[0].containers if isinstance(item, ErrorbarContainer)]


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text() and text.get_visible()]


def test_points_are_at_the_means_with_their_intervals_and_published_numbers() -> None:
    made = small()
    axes = figures.points(made).axes[0]
    for each, bars in zip(made.variants, errorbars(axes.figure), strict=True):  # type: ignore[arg-type]
        mean = each.means["final"]["error"]
        assert bars[0].get_xdata()[0] == mean.mean
        if mean.interval:
            assert bars[2][0].get_segments()[0][:, 0] == pytest.approx(mean.interval)
    published = [line for line in axes.lines if line.get_marker() == "D"]
    assert [(line.get_xdata()[0], line.get_markerfacecolor()) for line in published] == [(9.5, "none")]
    places = [bars[0].get_ydata()[0] for bars in errorbars(axes.figure)]  # type: ignore[arg-type]
    assert places == sorted(places) and axes.yaxis_inverted()  # the first on top
    assert [label.get_text() for label in axes.get_yticklabels()][3] == "half (0.5×)"  # noqa: RUF001


def test_single_seeds_are_dots_beside_their_mean() -> None:
    axes = figures.points(small()).axes[0]
    dots = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "."]
    assert dots == [STEADY, RISING, AROUND, [11.0] * 6, [9.0]]


def test_curves_are_those_of_validation_in_error() -> None:
    made = small()
    axes = figures.curves(made).axes[0]
    curve = made.variants[1].curves["validation_top1"]
    assert list(axes.lines[1].get_xdata()) == [1, 2, 3, 4]
    assert list(axes.lines[1].get_ydata()) == pytest.approx([100 - value for value in curve.mean])
    band = axes.collections[1].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(100 - max(curve.high)) and band[:, 1].max() == pytest.approx(
        100 - min(curve.low)
    )
    shown = figures.as_headline(curve, made)
    assert all(low < mean < high for low, mean, high in zip(shown.low, shown.mean, shown.high, strict=True))
    assert axes.get_ylabel() == "validation error (%)"
    low, high = axes.get_ylim()  # epochs 3 and 4 are the last third
    assert low < 100 - max(curve.high) and 100 - curve.low[2] <= high < 100 - curve.mean[1]
    assert figures.curves(small(metrics=("top1",))).axes[0].lines[1].get_ydata() == pytest.approx(curve.mean)


def test_equal_compute_ends_side_by_side_and_half_of_it_halfway() -> None:
    made = small()
    axes = figures.error_against_samples_seen(made).axes[0]
    ends = [(bars[0].get_xdata()[0], bars[0].get_ydata()[0]) for bars in errorbars(axes.figure)]  # type: ignore[arg-type]
    apart = figures.SPACING * BUDGET
    assert [at for at, _ in ends] == pytest.approx(
        [BUDGET + n * apart for n in (0, 1, 2)] + [BUDGET / 2, BUDGET + 3 * apart]
    )
    assert [error for _, error in ends] == pytest.approx([each.means["final"]["error"].mean for each in made.variants])
    lines = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert [max(line.get_xdata()) for line in lines] == [each.samples_seen for each in made.variants]
    assert axes.get_ylabel() == "test error (%)"


def test_a_variant_has_the_same_style_in_every_figure_and_no_other_has_it() -> None:
    made = many(24, 1)
    looks = list(style.line_styles(24))
    assert len(set(looks)) == 24
    for draw in (figures.curves, figures.error_against_samples_seen):
        drawn = {line.get_label(): line for line in draw(made).axes[0].lines}
        for each, look in zip(made.variants, looks, strict=True):
            line = drawn[figures.label(each)]
            assert (line.get_color(), line.get_linestyle(), line.get_marker()) == look


@pytest.mark.parametrize("color", style.COLORS)
@pytest.mark.parametrize("background", ["#ffffff", "#14171b"])
def test_every_color_is_visible_on_a_light_and_on_a_dark_page(color: str, background: str) -> None:
    def luminance(value: str) -> float:  # WCAG 2.1, relative luminance
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(value)]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    dark, light = sorted([luminance(color), luminance(background)])
    assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG 2.1, 1.4.11
    assert "--page: #14171b" in (page.FOLDER / "page.html.j2").read_text()


@pytest.mark.parametrize(
    ("num_variants", "name"),
    [(13, "variant_{}"), (24, "a_variant_with_a_name_of_sixty_letters_the_longest_allowed_{}")],
)
def test_names_are_not_cut_and_do_not_overlap(num_variants: int, name: str) -> None:
    for drawing in figures.drawings(many(num_variants, 2, name=name)):
        file = io.BytesIO()
        style.save(drawing.figure, file)
        frame = drawing.figure.bbox.padded(1)
        boxes = [text.get_window_extent() for text in texts(drawing.figure) if "variant" in text.get_text()]
        assert len(boxes) == num_variants
        for box in boxes:
            assert frame.containsx(box.x0) and frame.containsx(box.x1), drawing.name
            assert frame.containsy(box.y0) and frame.containsy(box.y1), drawing.name
        for first, second in pairwise(boxes):
            assert not first.padded(-1).overlaps(second.padded(-1)), drawing.name
        assert len(file.getvalue()) < 200_000
        with Image.open(file) as image:
            assert image.size[0] == pytest.approx(style.WIDTH * style.DPI, abs=1)


def test_figures_of_curves_are_left_out_where_there_are_none() -> None:
    made = small()
    bare = made._replace(variants=[each._replace(curves={}) for each in made.variants])
    assert [drawing.name for drawing in figures.drawings(bare)] == ["points"]
    assert [drawing.name for drawing in figures.drawings(made)] == ["points", "curves", "samples_seen"]
    assert "<h2>Curves</h2>" not in page.page(bare, figures.drawings(bare))


def test_robustness_is_drawn_where_it_was_measured() -> None:
    """Two variants that lose 1 and 2 points for each percent occluded, the seeds 10 points apart about their means."""
    variants = [variant(name, [10.0, 10.0]) for name in ("a", "b", "c")]
    for slope, each in enumerate(variants[:2], start=1):
        for seed, found in each.records.items():
            tops = [90.0 + 10 * (seed - 0.5) - slope * fraction for fraction in (0, 10, 20)]
            found["robustness"] = {
                "occlusion": {"at": [0, 10, 20], "top1": tops},
                "offsets": {"at": [0, 3], "top1": tops[:2]},
            }
    made = analyzed(variants, contrasts=[Pair("a", "b")])
    drawings = {drawing.name: drawing for drawing in figures.drawings(made)}
    assert list(drawings) == ["points", "curves", "samples_seen", "occlusion", "offsets"]
    lines = drawings["occlusion"].figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["a", "b"]
    assert [list(np.asarray(line.get_ydata())) for line in lines] == [[10, 20, 30], [10, 30, 50]]
    assert [list(np.asarray(line.get_xdata())) for line in drawings["offsets"].figure.axes[0].lines] == [[0, 3]] * 2
    assert drawings["occlusion"].figure.axes[0].get_ylim() == (0, 100)
    assert "<h2>Robustness</h2>" in page.page(made, list(drawings.values()))
    assert "<h2>Robustness</h2>" not in page.page(small(), figures.drawings(small()))
