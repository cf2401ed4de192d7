"""Tables, figures and the page of a study say what its numbers say, whatever its arms are called."""

import csv
import functools
import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from scipy import stats

from agmax.config import resolve
from agmax.config.resolve import Setting
from agmax.config.schema import Config
from agmax.core.errors import OutputError
from agmax.reports import figures, formatting, page, style, writers
from agmax.reports import tables as contents
from agmax.studies import records
from agmax.studies.analysis import Analysis, Arm, Pair, analyse
from agmax.studies.records import Record
from helpers.chromium import opened

NUM_TEST_IMAGES = 400
BUDGET = 8000

HOSTILE = (
    "<script>alert(1)</script>",
    "</svg></style><b onclick='x'>bold",
    "a|b`c` *d* _e_ ~f~",
    r"$\x_1{$ & 100 % #1 {y} \input{z} ~^",
    '"quoted" --- [link](//evil.example)',
    "{{ 7 * 7 }} {% raw %}",
    "[first] of a row",
    "* starred",
    "two\nlines \u202e &amp; 猫",
    "n" * 150,
)


def config(**settings: Any) -> Config:
    """Return the settings of a cell."""
    listed = [Setting(key.replace("__", "."), value, "test") for key, value in settings.items()]
    return resolve.resolve("ResNet8-standard", dataset="digits", settings=listed).config


PLAIN = config()


def record(seed: int, error: float, *, of: Config = PLAIN, image_passes: int = BUDGET, epochs: int = 4) -> Record:
    """Make what a finished cell leaves, as records.of_run does; error in percent, a multiple of 0.25."""
    labels = np.arange(NUM_TEST_IMAGES) % 10
    right = np.random.default_rng(seed).permutation(NUM_TEST_IMAGES) >= error * NUM_TEST_IMAGES / 100
    listed = list(range(1, epochs + 1))
    test = [100 - error - 5 * (epochs - epoch) for epoch in listed]

    def metrics(better: float = 0.0) -> dict[str, float]:
        return {"error": error - better, "top1": 100 - error + better, "top5": 99.0, "nll": error / 40, "ece": 0.02}

    return {
        "seed": seed,
        "config": of.name,
        "split": "test",
        "metrics": {"validation": metrics(), "test": metrics()},
        "best": {
            "best_on_validation": {"epoch": epochs, **metrics(0.25)},
            "best_on_test": {"epoch": epochs, **metrics(0.5)},
        },
        "curves": {
            "train_loss": {"epochs": listed, "values": [1 / epoch for epoch in listed]},
            "validation_top1": {"epochs": listed, "values": [value - 1 for value in test]},
            "test_top1": {"epochs": listed, "values": test},
        },
        "epochs": epochs,
        "steps": 1600,
        "image_passes": image_passes,
        "num_training_images": 1000,
        "seconds": 90.0,
        "environment": {**dict.fromkeys(records.OF_THE_MACHINE), "torch": "2.14", "precision": "bf16", "threads": 2},
        "code": "0123456789abcdef",
        "num_test_images": NUM_TEST_IMAGES,
        "labels": records.checksum(labels),
        "right": records.packed(right),
    }


def arm(name: str, errors: Sequence[float], *, paper: dict[str, float] | None = None, **options: Any) -> Arm:
    made = {seed: record(seed, error, **options) for seed, error in enumerate(errors)}
    return Arm(name, f"what {name} is for", options.get("of", PLAIN), made, len(errors), paper or {})


def analysed(arms: Sequence[Arm], **options: Any) -> Analysis:
    return analyse("a study", arms, **{"metrics": ("error", "nll", "ece"), "budget": BUDGET, **options})


STEADY = [10.0] * 6
RISING = [10.25, 10.5, 10.75, 11.0, 11.25, 11.5]  # above STEADY by 0.25 to 1.5: mean 0.875, t interval -+ 0.4908
AROUND = [9.75, 10.25, 9.5, 10.5, 10.0, 10.25]


@functools.cache
def small(**options: Any) -> Analysis:
    """Two contrasts, a check that holds and one that does not, one other arm."""
    arms = [
        arm("steady", STEADY),
        arm("rising", RISING, paper={"error": 9.5}),
        arm("around", AROUND),
        arm("half", [11.0] * 6, image_passes=BUDGET // 2),
        arm("alone", [9.0]),
    ]
    contrasts = [Pair("rising", "steady", "the best on validation"), Pair("around", "steady")]
    checks = [Pair("around", "rising", "", "no difference"), Pair("half", "steady", "", "a difference")]
    return analysed(arms, contrasts=contrasts, checks=checks, notes=["a note"], **options)


@functools.cache
def many(num_arms: int, num_replicates: int, *, name: str = "arm_number_{}") -> Analysis:
    """Arms with names of their own, the last with one replicate, every fourth with a published number."""
    rng = np.random.default_rng(0)
    arms = [
        arm(
            name.format(number),
            (np.round(4 * rng.normal(10 + number / 10, 0.5, num_replicates)) / 4)[
                : None if number < num_arms - 1 else 1
            ],
            of=config(optimizer__lr=0.01 * (1 + number % 3)),
            image_passes=BUDGET if number else BUDGET // 2,
            paper={} if number % 4 else {"top1": 89.5},
        )
        for number in range(num_arms)
    ]
    names = [each.name for each in arms]
    return analysed(
        arms,
        contrasts=[Pair(names[2], names[1], "the best on validation"), Pair(names[2], names[3])],
        checks=[Pair(names[4], names[1], "", "no gain")],
        about="does it help?",
    )


@functools.cache
def hostile() -> Analysis:
    """Everything that comes from a user's file says something nasty."""
    arms = [arm(name, STEADY)._replace(about=name) for name in HOSTILE]
    arms[0] = arm(HOSTILE[0], RISING, of=config(dataset__train_limit=100))._replace(about="two\nlines | <b>")
    pairs = [Pair(HOSTILE[0], name, name) for name in HOSTILE[1:5]]
    made = analysed(arms, contrasts=pairs, checks=[Pair(HOSTILE[5], HOSTILE[6], "", "no gain")], notes=HOSTILE)
    environment = {"torch": list(HOSTILE), HOSTILE[0]: ["x"]}
    return made._replace(title=HOSTILE[0], about=HOSTILE[1], environment=environment)


def cells(table: contents.Table, row: int) -> dict[str, str]:
    return {column.title: cell for column, cell in zip(table.columns, table.rows[row], strict=True)}


# Tables


def test_the_main_table_has_the_numbers_worked_by_hand() -> None:
    shown = cells(contents.arms(small()), 1)
    assert shown == {
        "arm": "rising",
        "what it controls": "what rising is for",
        "error (%)": "10.88 ± 0.49",
        "nll (nats)": "0.2719 ± 0.0123",
        "ece (share)": "0.0200 ± 0.0000",
        "error, best on validation": "10.62 ± 0.49",
        "error, best_on_test (as the papers do)": "10.38 ± 0.49",
        "replicates": "6",
        "image passes": "8,000",
        "of the budget": "1×",  # noqa: RUF001
        "steps": "1,600",
        "minutes": "1.5",
        "published": "9.50",
    }


def test_a_contrast_has_the_numbers_worked_by_hand() -> None:
    shown = cells(contents.contrasts(small()), 0)
    assert shown["contrast"] == "rising against steady"
    assert shown["chosen as"] == "the best on validation"
    assert shown["difference"] == "+0.88 [+0.38, +1.37]"
    assert shown["p, sign flips"] == "0.0312"  # 2 / 64
    assert shown["p after Holm"] == "0.0625"  # of two
    assert shown["equivalent within 0.2"].startswith("no (p 0.99")
    assert shown["verdict"] == "worse by the interval, not by the p-value after Holm (0.0625)"
    assert shown["replicates"] == "6" and shown["compute"] == "1×"  # noqa: RUF001


def test_what_cannot_be_told_apart_is_said_to_be_so() -> None:
    assert cells(contents.contrasts(small()), 1)["verdict"] == "not distinguishable"
    assert "not distinguishable" in writers.markdown(small()) and "not distinguishable" in writers.latex(small())


def test_arms_and_pairs_that_are_not_at_equal_compute_are_marked() -> None:
    made = small()
    assert [row[0] for row in contents.arms(made).rows] == ["steady", "rising", "around", "half (0.5×)", "alone"]  # noqa: RUF001
    assert [row[0] for row in contents.checks(made).rows] == ["around against rising", "half against steady (0.5×)"]  # noqa: RUF001
    assert any("not at equal compute" in note for note in contents.arms(made).notes)
    assert any("not at equal compute" in note for note in contents.checks(made).notes)
    assert not contents.contrasts(made).notes
    assert formatting.marked("a", 1.009) == "a" and formatting.marked("a", 1.011) == "a (1.01×)"  # noqa: RUF001
    assert formatting.marked("a", 0.989) == "a (0.989×)"  # noqa: RUF001


def test_checks_say_what_was_expected_what_was_found_and_whether_it_holds() -> None:
    first, second = (cells(contents.checks(small()), row) for row in (0, 1))
    assert (first["expected"], first["found"], first["holds?"]) == ("no difference", "better", "NO")
    assert (second["expected"], second["found"], second["holds?"]) == ("a difference", "worse", "yes")
    assert second["difference"] == "+1.00 [+1.00, +1.00]"


def test_other_arms_stand_beside_the_reference_without_p_values() -> None:
    table = contents.others(small())
    assert [row[0] for row in table.rows] == ["alone against steady"]
    assert cells(table, 0)["difference"] == f"{formatting.MINUS}1.00"  # one replicate: no interval
    assert not any(column.title.startswith("p") for column in table.columns)


def test_under_six_replicates_a_dash_stands_for_p_and_the_reason_once() -> None:
    arms = [arm("a", STEADY[:5]), arm("b", RISING[:5]), arm("c", AROUND[:5])]
    made = analysed(arms, contrasts=[Pair("b", "a"), Pair("c", "a")])
    for row in (0, 1):
        shown = cells(contents.contrasts(made), row)
        assert shown["p, sign flips"] == shown["p after Holm"] == formatting.DASH
        assert "p " not in shown["equivalent within 0.2"]
    assert writers.markdown(made).count(contents.NO_P_VALUE) == 1
    assert contents.NO_P_VALUE not in writers.markdown(small())


def test_a_single_replicate_has_a_mean_and_nothing_else() -> None:
    shown = cells(contents.arms(small()), 4)
    assert shown["error (%)"] == "9.00"
    assert "without ±: one replicate" in contents.arms(small()).notes


def test_every_caption_says_images_unit_interval_and_protocol() -> None:
    for table in contents.tables(small()):
        for word in ("400 test images", "error (", "95 % t interval", "final epoch"):
            assert word in table.caption.lower(), (table.name, word)
    assert "± half the width" in contents.arms(small()).caption
    assert "(points)" in contents.contrasts(small()).caption


def test_the_interval_over_images_has_the_sign_of_the_difference_that_it_stands_beside() -> None:
    by_error, by_top1 = small(), small(metrics=("top1", "nll"))
    low, high = by_error.contrasts[0].bootstrap or (0, 0)
    assert cells(contents.contrasts(by_error), 0)["error over replicates and images"] == (
        f"[{formatting.signed(low, 'error')}, {formatting.signed(high, 'error')}]"
    )
    shown = cells(contents.contrasts(by_top1), 0)
    assert shown["difference"].startswith(f"{formatting.MINUS}0.88")
    assert (
        shown["top1 over replicates and images"]
        == f"[{formatting.signed(-high, 'top1')}, {formatting.signed(-low, 'top1')}]"
    )


def test_a_published_top1_stands_beside_a_measured_error() -> None:
    made = analysed([arm("a", STEADY, paper={"top1": 90.25}), arm("b", STEADY)])
    assert [row[-1] for row in contents.arms(made).rows] == ["9.75", formatting.DASH]
    assert "published" not in [column.title for column in contents.arms(analysed([arm("b", STEADY)])).columns]


def test_two_single_models_are_compared_by_the_images_that_one_alone_has_right() -> None:
    made = analysed([arm("a", [10.0]), arm("b", [9.0])], contrasts=[Pair("b", "a")])
    table = contents.contrasts(made)
    assert cells(table, 0)["McNemar of these two models"] == "4 against 0 (p 0.125)"  # 2 / 2^4
    assert "McNemar" in table.caption and "McNemar" not in contents.contrasts(small()).caption
    assert "McNemar of these two models" not in cells(contents.contrasts(small()), 0)


def test_unfinished_replicates_are_counted() -> None:
    made = analysed([arm("a", STEADY)._replace(num_planned=8)])
    assert cells(contents.arms(made), 0)["replicates"] == "6 of 8"


def test_numbers_are_written_as_they_are() -> None:
    assert [formatting.signed(value, "error") for value in (-0.001, 0.004, -0.006)] == ["+0.00", "+0.00", "−0.01"]  # noqa: RUF001
    assert [formatting.p_value(value) for value in (0.0004, 0.001, 0.0496, 1.0, None)] == [
        "< 0.001",
        "0.001",
        "0.0496",
        "1",
        formatting.DASH,
    ]


def test_the_csv_holds_every_mean_in_full_precision_as_scipy_finds_it() -> None:
    made = small()
    rows = list(csv.DictReader(io.StringIO(writers.csv(made))))
    assert len(rows) == 5 * 3 * 5  # arms, protocols, metrics
    chosen = {row["protocol"]: row for row in rows if row["arm"] == "rising" and row["metric"] == "error"}
    row = chosen["final"]
    assert float(row["mean"]) == np.mean(RISING) and float(row["std"]) == pytest.approx(np.std(RISING, ddof=1))
    oracle = stats.t.interval(0.95, 5, np.mean(RISING), stats.sem(RISING))
    assert (float(row["low"]), float(row["high"])) == pytest.approx(oracle)
    assert (row["num_replicates"], row["image_passes"], row["steps"], row["minutes"]) == ("6", "8000", "1600", "1.5")
    assert (row["unit"], row["published"]) == ("%", "9.5")
    assert float(chosen["best_on_test"]["mean"]) == np.mean(RISING) - 0.5
    alone = next(row for row in rows if row["arm"] == "alone")
    assert (alone["std"], alone["low"], alone["high"]) == ("", "", "")


def test_the_csv_reads_back_whatever_arms_are_called() -> None:
    assert {row["arm"] for row in csv.DictReader(io.StringIO(writers.csv(hostile())))} == set(HOSTILE)


@pytest.mark.parametrize("analysis", [small(), hostile()], ids=["small", "hostile"])
def test_every_row_of_markdown_has_the_cells_of_its_head(analysis: Analysis) -> None:
    counts: list[int] = []
    for line in writers.markdown(analysis).splitlines():
        if not line.startswith("|"):
            counts.append(0)
            continue
        num_cells = len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) - 1
        assert counts[-1] in (0, num_cells), line
        counts.append(num_cells)
    num_rows = sum(len(table.rows) + 2 for table in contents.tables(analysis))
    assert sum(count > 0 for count in counts) == num_rows


def test_markdown_shows_names_as_they_are() -> None:
    assert writers.in_markdown("two_views_again") == "two_views_again"
    assert writers.in_markdown("+0.12 [−0.01, +0.25]") == "+0.12 [−0.01, +0.25]"  # noqa: RUF001
    assert writers.in_markdown("_a_ *b* `c` <d> & [e](f) \\ ~") == (
        "\\_a\\_ \\*b\\* \\`c\\` &lt;d&gt; &amp; [e\\](f) \\\\ \\~"
    )
    assert writers.in_markdown("- a") == "\\- a" and writers.in_markdown("# a") == "\\# a"


def test_no_number_is_set_in_bold() -> None:
    made = small()
    assert (
        "**" not in writers.markdown(made)
        and r"\textbf" not in writers.latex(made)
        and r"\bf" not in writers.latex(made)
    )
    assert not re.search(r"<(b|strong)\b", page.page(made, []))


def test_latex_escapes_every_letter_that_it_would_take_for_markup() -> None:
    assert writers.in_latex(r"a_b & 5 % $x$ #1 {y} \z ~ ^") == (
        r"a\_\allowbreak{}b \& 5 \% \$x\$ \#1 \{y\} \textbackslash{}z \textasciitilde{} \textasciicircum{}"
    )
    assert writers.in_latex("9 ± 1 − 2× –") == r"9 $\pm$ 1 $-$ 2$\times$ \textendash{}"  # noqa: RUF001
    assert writers.in_latex("--fresh") == "-{}-fresh" and writers.in_latex("[a]") == "{}[a]"


@pytest.mark.parametrize("analysis", [small(), hostile()], ids=["small", "hostile"])
def test_latex_is_balanced_and_every_row_has_the_cells_of_its_head(analysis: Analysis) -> None:
    text = writers.latex(analysis)
    bare = re.sub(r"\\[&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    for made in ("table", "sidewaystable", "tabular", "itemize"):
        assert bare.count(rf"\begin{{{made}}}") == bare.count(rf"\end{{{made}}}")
    assert r"\input" not in text and "|" not in text
    for table in contents.tables(analysis):
        shown = bare[bare.index(rf"\label{{tab:{table.name}}}") :]
        rows = shown[shown.index(r"\toprule") : shown.index(r"\bottomrule")].splitlines()[1:]
        assert [row.count("&") for row in rows if row != r"\midrule"] == [len(table.columns) - 1] * (
            len(table.rows) + 1
        )


# Figures


def errorbars(figure: Figure) -> list[ErrorbarContainer]:
    return [item for item in figure.axes[0].containers if isinstance(item, ErrorbarContainer)]


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text() and text.get_visible()]


def test_points_stand_at_the_means_with_their_intervals_and_published_numbers() -> None:
    made = small()
    axes = figures.points(made).axes[0]
    for each, bars in zip(made.arms, errorbars(axes.figure), strict=True):  # type: ignore[arg-type]
        mean = each.means["final"]["error"]
        assert bars[0].get_xdata()[0] == mean.mean
        if mean.interval:
            assert bars[2][0].get_segments()[0][:, 0] == pytest.approx(mean.interval)
    published = [line for line in axes.lines if line.get_marker() == "D"]
    assert [(line.get_xdata()[0], line.get_markerfacecolor()) for line in published] == [(9.5, "none")]
    places = [bars[0].get_ydata()[0] for bars in errorbars(axes.figure)]  # type: ignore[arg-type]
    assert places == sorted(places) and axes.yaxis_inverted()  # the first on top
    assert [label.get_text() for label in axes.get_yticklabels()][3] == "half (0.5×)"  # noqa: RUF001


def test_single_replicates_are_dots_beside_their_mean() -> None:
    axes = figures.points(small()).axes[0]
    dots = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "."]
    assert dots == [STEADY, RISING, AROUND, [11.0] * 6, [9.0]]


def test_curves_are_those_of_validation_in_error() -> None:
    made = small()
    axes = figures.curves(made).axes[0]
    curve = made.arms[1].curves["validation_top1"]
    assert list(axes.lines[1].get_xdata()) == [1, 2, 3, 4]
    assert list(axes.lines[1].get_ydata()) == pytest.approx([100 - value for value in curve.mean])
    band = axes.collections[1].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(100 - max(curve.high)) and band[:, 1].max() == pytest.approx(
        100 - min(curve.low)
    )
    shown = figures.shown(curve, made)
    assert all(low < mean < high for low, mean, high in zip(shown.low, shown.mean, shown.high, strict=True))
    assert axes.get_ylabel() == "validation error (%)"
    low, high = axes.get_ylim()  # epochs 3 and 4 are the last third
    assert low < 100 - max(curve.high) and 100 - curve.low[2] <= high < 100 - curve.mean[1]
    assert figures.curves(small(metrics=("top1",))).axes[0].lines[1].get_ydata() == pytest.approx(curve.mean)


def test_equal_compute_ends_side_by_side_and_half_of_it_halfway() -> None:
    made = small()
    axes = figures.error_against_image_passes(made).axes[0]
    ends = [(bars[0].get_xdata()[0], bars[0].get_ydata()[0]) for bars in errorbars(axes.figure)]  # type: ignore[arg-type]
    apart = figures.APART * BUDGET
    assert [at for at, _ in ends] == pytest.approx(
        [BUDGET + n * apart for n in (0, 1, 2)] + [BUDGET / 2, BUDGET + 3 * apart]
    )
    assert [error for _, error in ends] == pytest.approx([each.means["final"]["error"].mean for each in made.arms])
    lines = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert [max(line.get_xdata()) for line in lines] == [each.image_passes for each in made.arms]
    assert axes.get_ylabel() == "test error (%)"


def test_an_arm_looks_the_same_in_every_figure_and_unlike_every_other() -> None:
    made = many(24, 1)
    looks = list(style.looks(24))
    assert len(set(looks)) == 24
    for draw in (figures.curves, figures.error_against_image_passes):
        drawn = {line.get_label(): line for line in draw(made).axes[0].lines}
        for each, look in zip(made.arms, looks, strict=True):
            line = drawn[figures.label(each)]
            assert (line.get_color(), line.get_linestyle(), line.get_marker()) == look


@pytest.mark.parametrize("color", style.COLORS)
@pytest.mark.parametrize("background", ["#ffffff", "#14171b"])
def test_every_colour_can_be_seen_on_a_light_and_on_a_dark_page(color: str, background: str) -> None:
    def luminance(value: str) -> float:  # WCAG 2.1, relative luminance
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(value)]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    dark, light = sorted([luminance(color), luminance(background)])
    assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG 2.1, 1.4.11
    assert "--page: #14171b" in (page.FOLDER / "page.html.j2").read_text()


@pytest.mark.parametrize(
    ("num_arms", "name"), [(13, "arm_{}"), (24, "an_arm_with_a_name_of_sixty_letters_which_is_the_most_no_{}")]
)
def test_names_are_neither_cut_nor_drawn_over_each_other(num_arms: int, name: str) -> None:
    for drawing in figures.drawings(many(num_arms, 2, name=name)):
        file = io.BytesIO()
        style.save(drawing.figure, file)
        frame = drawing.figure.bbox.padded(1)
        boxes = [text.get_window_extent() for text in texts(drawing.figure) if "arm" in text.get_text()]
        assert len(boxes) == num_arms
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
    bare = made._replace(arms=[each._replace(curves={}) for each in made.arms])
    assert [drawing.name for drawing in figures.drawings(bare)] == ["points"]
    assert [drawing.name for drawing in figures.drawings(made)] == ["points", "curves", "image_passes"]
    assert "<h2>Curves</h2>" not in page.page(bare, figures.drawings(bare))


def test_robustness_is_drawn_where_it_was_measured() -> None:
    """Two arms that lose 1 and 2 points for each percent hidden, the replicates 10 points apart about their means."""
    arms = [arm(name, [10.0, 10.0]) for name in ("a", "b", "c")]
    for slope, each in enumerate(arms[:2], start=1):
        for seed, found in each.records.items():
            tops = [90.0 + 10 * (seed - 0.5) - slope * share for share in (0, 10, 20)]
            found["robustness"] = {
                "occlusion": {"at": [0, 10, 20], "top1": tops},
                "offsets": {"at": [0, 3], "top1": tops[:2]},
            }
    made = analysed(arms, contrasts=[Pair("a", "b")])
    drawings = {drawing.name: drawing for drawing in figures.drawings(made)}
    assert list(drawings) == ["points", "curves", "image_passes", "occlusion", "offsets"]
    lines = drawings["occlusion"].figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["a", "b"]
    assert [list(np.asarray(line.get_ydata())) for line in lines] == [[10, 20, 30], [10, 30, 50]]
    assert [list(np.asarray(line.get_xdata())) for line in drawings["offsets"].figure.axes[0].lines] == [[0, 3]] * 2
    assert drawings["occlusion"].figure.axes[0].get_ylim() == (0, 100)
    assert "<h2>When less is visible</h2>" in page.page(made, list(drawings.values()))
    assert "<h2>When less is visible</h2>" not in page.page(small(), figures.drawings(small()))


@pytest.mark.parametrize("metric", ["error", "top1"])
def test_robustness_stands_in_a_table(metric: str) -> None:
    """Replicates 1 point apart: a 95 % interval with one degree of freedom is 12.706 times 0.5 wide on each side."""
    arms = [arm("a", [10.0, 11.0], of=config(evaluation__robustness_limit=50)), arm("b", [10.0, 11.0])]
    for seed, found in arms[0].records.items():
        found["robustness"] = {"occlusion": {"at": [0, 28.699], "top1": [90.0 - seed, 40.0]}}
    made = analysed(arms, metrics=(metric,))
    (table,) = [table for table in contents.tables(made) if table.name in contents.ROBUSTNESS]
    assert [column.title for column in table.columns] == ["arm", "0", "28.7"]
    assert table.rows == [["a", *(["10.50 ± 6.35", "60.00"] if metric == "error" else ["89.50 ± 6.35", "40.00"])]]
    for seed, found in arms[1].records.items():  # a little less of larger images
        found["robustness"] = {"occlusion": {"at": [0, 28.72], "top1": [90.0 - seed, 40.0]}}
    shared = contents.robustness(analysed(arms, metrics=(metric,)), "occlusion")
    assert shared.rows == [table.rows[0], ["b", *table.rows[0][1:]]]
    assert "on test images" in table.caption  # on how many is not said, where arms differ
    assert "on 50 test images" in contents.robustness(analysed(arms[:1]), "occlusion").caption


def test_the_number_of_trials_stands_in_the_table_of_arms() -> None:
    tuned, plain = arm("tuned", STEADY)._replace(num_trials=6), arm("plain", RISING)
    table = contents.arms(analysed([tuned, plain]))
    column = [head.title for head in table.columns].index("trials")
    assert [row[column] for row in table.rows] == ["6", "\N{EN DASH}"]
    assert "trials" not in [head.title for head in contents.arms(small()).columns]


# The page


class Strict(HTMLParser):
    """Read a page and refuse tags that do not match; keep elements, attributes and text."""

    VOID = {"meta", "link", "wbr", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
            self.texts.append((tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, tag
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.texts:
            tag, text = self.texts[-1]
            self.texts[-1] = (tag, text + data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def said(self, tag: str) -> list[str]:
        return [text.strip() for name, text in self.texts if name == tag]


def made_page(analysis: Analysis) -> str:
    return page.page(analysis, figures.drawings(analysis))


@pytest.fixture(scope="module")
def full() -> str:
    """The page of 13 arms with 8 replicates, one of them with a single one."""
    return made_page(many(13, 8))


def test_the_page_is_well_formed_and_names_its_parts(full: str) -> None:
    read = Strict(full)
    assert full.startswith("<!DOCTYPE html>") and read.of("html") == [{"lang": "en"}]
    assert read.said("title") == ["a study"] and read.said("h1") == ["a study"]
    num_tables = len(read.of("table"))
    assert num_tables == len(read.of("caption")) == 5  # arms, contrasts, checks, others, settings
    assert {each.get("scope") for each in read.of("th")} == {"col", "row"}
    pictures = read.of("svg")
    assert len(pictures) == len(read.of("figcaption")) == 3
    assert all(each["role"] == "img" and len(each["aria-label"] or "") > 40 for each in pictures)
    assert all(
        each["tabindex"] == "0" and "scroll" in (each["class"] or "") for each in read.of("div") if "role" in each
    )


def test_the_page_asks_for_nothing_and_runs_nothing(full: str) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|<script|javascript:", full)
    for tag, attributes in Strict(full).elements:
        for key in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert (attributes.get(key) or "#").startswith(("#", "data:")), (tag, attributes)
        assert not any(key.startswith("on") for key in attributes), (tag, attributes)


def test_every_identifier_of_the_page_stands_once_and_is_there_where_it_is_meant(full: str) -> None:
    read = Strict(full)
    identifiers = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    meant = {value for each in read.of("use") for key, value in each.items() if key.endswith("href")}
    meant |= {f"#{name}" for name in re.findall(r"url\(#([^)]*)\)", full)}
    meant |= {f"#{each['aria-labelledby']}" for each in read.of("div") if "aria-labelledby" in each}
    assert meant and meant <= {f"#{name}" for name in identifiers}


def test_figures_in_the_page_take_the_ink_of_the_page(full: str) -> None:
    assert full.count("currentColor") > 50 and style.INK not in full
    assert not re.search(r"fill: #(fff|ffffff|000|000000)\b", full)


def test_nothing_from_a_users_file_becomes_markup() -> None:
    text = made_page(hostile())
    read = Strict(text)
    assert not {"script", "b"} & {tag for tag, _ in read.elements} and "<!--" not in text
    assert "49" not in read.said("th")  # 7 * 7
    plain = [formatting.plain(name) for name in HOSTILE]
    headings = re.findall(r'<th scope="row">(.*?)</th>', text)
    for name in plain:
        assert str(page.breakable(name)) in headings
    assert read.said("h1") == [plain[0]] and read.said("title") == [plain[0]]
    assert set(plain) <= set(read.said("li"))


def test_the_page_says_what_can_be_said_and_which_checks_failed() -> None:
    made = small()
    read = Strict(page.page(made, []))
    said = read.said("li")
    assert said[0].startswith("rising against steady") and "worse by the interval" in said[0]
    assert said[1].startswith("around against steady") and "not distinguishable" in said[1]
    assert "1 of 2 checks came out as expected." in read.said("p")
    assert any("around against rising" in text and "NOT as expected" in text for text in read.said("p"))
    assert "a note" in said


def test_the_page_shows_the_settings_in_which_arms_differ(full: str) -> None:
    table = page.settings(many(13, 8))
    assert [column.title for column in table.columns] == ["arm", "optimizer.lr"]
    assert [row[1] for row in table.rows][:4] == ["0.01", "0.02", "0.03", "0.01"]
    assert "optimizer.<wbr>lr" in full
    assert not page.settings(analysed([arm("a", STEADY), arm("b", STEADY)])).rows


def test_the_page_fits_a_wide_and_a_narrow_window(full: str, tmp_path: Path) -> None:
    for number, text in enumerate((full, made_page(hostile()))):
        folder = tmp_path / str(number)
        folder.mkdir()
        measures, console = opened(text, folder, widths=(1280, 400))
        assert [each["width"] for each in measures] == pytest.approx([1280, 400], abs=20)  # a scroll bar
        for each in measures:
            assert each["scroll_width"] <= each["width"]
            assert not each["beyond"]
            assert each["num_cells"] > 100 and each["font"] == "16px"
        assert not console


# Files


def test_everything_is_written_and_the_same_again(tmp_path: Path) -> None:
    made = analysed([arm("a", STEADY), arm("b", RISING)], contrasts=[Pair("b", "a")])
    paths = page.write(made, tmp_path / "new" / "folder")
    names = ["study.csv", "study.md", "study.tex", "report.html", "points.png", "curves.png", "image_passes.png"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(names)
    again = page.write(made, tmp_path)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert (tmp_path / "study.md").read_text() == writers.markdown(made)


def test_a_folder_that_cannot_be_written_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = analysed([arm("a", STEADY)])
    with pytest.raises(OutputError, match="cannot write"):
        page.write(made, tmp_path / "file" / "folder")
    (tmp_path / "study.tex").mkdir()
    with pytest.raises(OutputError, match=r"study\.tex"):
        page.write(made, tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_a_study_without_contrasts_or_budget_is_told_as_one() -> None:
    made = analysed([arm("a", STEADY)], budget=None)
    assert [table.name for table in contents.tables(made)] == ["arms"]
    assert "of the budget" not in [column.title for column in contents.arms(made).columns]
    assert "nothing is tested" in made_page(made)
