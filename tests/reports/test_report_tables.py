"""Tables of a study say what its numbers say, whatever its variants are called."""

import csv
import io
import re

import numpy as np
import pytest
from scipy import stats

from agmax.reports import formatting, page, writers
from agmax.reports import tables as contents
from agmax.studies.analysis import Analysis, Pair
from helpers.analyses import AROUND, HOSTILE, RISING, STEADY, analyzed, config, entries, hostile, small, variant


def test_the_main_table_has_the_numbers_worked_by_hand() -> None:
    shown = entries(contents.variants(small()), 1)
    assert shown == {
        "variant": "rising",
        "what it controls": "what rising is for",
        "error (%)": "10.88 ± 0.49",
        "nll (nats)": "0.2719 ± 0.0123",
        "ece (fraction)": "0.0200 ± 0.0000",
        "error, best on validation": "10.62 ± 0.49",
        "error, best_on_test (as the papers do)": "10.38 ± 0.49",
        "seeds": "6",
        "samples seen": "8,000",
        "of the budget": "1×",  # noqa: RUF001
        "steps": "1,600",
        "minutes": "1.5",
        "published": "9.50",
    }


def test_a_contrast_has_the_numbers_worked_by_hand() -> None:
    shown = entries(contents.contrasts(small()), 0)
    assert shown["contrast"] == "rising against steady"
    assert shown["chosen as"] == "the best on validation"
    assert shown["difference"] == "+0.88 [+0.38, +1.37]"
    assert shown["p, sign flips"] == "0.0312"  # 2 / 64
    assert shown["p after Holm"] == "0.0625"  # of two
    assert shown["equivalent within 0.2"].startswith("no (p 0.99")
    assert shown["verdict"] == "worse by the interval, not by the p-value after Holm (0.0625)"
    assert shown["seeds"] == "6" and shown["compute"] == "1×"  # noqa: RUF001


def test_a_difference_whose_interval_includes_zero_is_called_not_distinguishable() -> None:
    assert entries(contents.contrasts(small()), 1)["verdict"] == "not distinguishable"
    assert "not distinguishable" in writers.markdown(small()) and "not distinguishable" in writers.latex(small())


def test_variants_and_pairs_that_are_not_at_equal_compute_are_marked() -> None:
    made = small()
    assert [row[0] for row in contents.variants(made).rows] == ["steady", "rising", "around", "half (0.5×)", "alone"]  # noqa: RUF001
    assert [row[0] for row in contents.checks(made).rows] == ["around against rising", "half against steady (0.5×)"]  # noqa: RUF001
    assert any("unequal compute" in note for note in contents.variants(made).notes)
    assert any("unequal compute" in note for note in contents.checks(made).notes)
    assert not contents.contrasts(made).notes
    assert formatting.with_compute_ratio("a", 1.009) == "a" and formatting.with_compute_ratio("a", 1.011) == "a (1.01×)"  # noqa: RUF001
    assert formatting.with_compute_ratio("a", 0.989) == "a (0.989×)"  # noqa: RUF001


def test_checks_show_expected_and_found_results_and_whether_they_hold() -> None:
    first, second = (entries(contents.checks(small()), row) for row in (0, 1))
    assert (first["expected"], first["found"], first["holds?"]) == ("no difference", "better", "NO")
    assert (second["expected"], second["found"], second["holds?"]) == ("a difference", "worse", "yes")
    assert second["difference"] == "+1.00 [+1.00, +1.00]"


def test_other_variants_are_compared_with_the_reference_without_p_values() -> None:
    table = contents.others(small())
    assert [row[0] for row in table.rows] == ["alone against steady"]
    assert entries(table, 0)["difference"] == f"{formatting.MINUS}1.00"  # one seed: no interval
    assert not any(column.title.startswith("p") for column in table.columns)


def test_below_six_seeds_p_is_a_dash_with_one_footnote() -> None:
    variants = [variant("a", STEADY[:5]), variant("b", RISING[:5]), variant("c", AROUND[:5])]
    made = analyzed(variants, contrasts=[Pair("b", "a"), Pair("c", "a")])
    for row in (0, 1):
        shown = entries(contents.contrasts(made), row)
        assert shown["p, sign flips"] == shown["p after Holm"] == formatting.DASH
        assert "p " not in shown["equivalent within 0.2"]
    assert writers.markdown(made).count(contents.NO_P_VALUE) == 1
    assert contents.NO_P_VALUE not in writers.markdown(small())


def test_a_single_seed_has_a_mean_and_nothing_else() -> None:
    shown = entries(contents.variants(small()), 4)
    assert shown["error (%)"] == "9.00"
    assert "without ±: one seed" in contents.variants(small()).notes


def test_every_caption_names_images_unit_interval_and_protocol() -> None:
    for table in contents.tables(small()):
        for word in ("400 test images", "error (", "95 % t interval", "final epoch"):
            assert word in table.caption.lower(), (table.name, word)
    assert "± half the width" in contents.variants(small()).caption
    assert "(points)" in contents.contrasts(small()).caption


def test_the_interval_over_images_has_the_sign_of_its_difference() -> None:
    by_error, by_top1 = small(), small(metrics=("top1", "nll"))
    low, high = by_error.contrasts[0].bootstrap or (0, 0)
    assert entries(contents.contrasts(by_error), 0)["error over seeds and images"] == (
        f"[{formatting.signed_number(low, 'error')}, {formatting.signed_number(high, 'error')}]"
    )
    shown = entries(contents.contrasts(by_top1), 0)
    assert shown["difference"].startswith(f"{formatting.MINUS}0.88")
    assert (
        shown["top1 over seeds and images"]
        == f"[{formatting.signed_number(-high, 'top1')}, {formatting.signed_number(-low, 'top1')}]"
    )


def test_a_published_top1_is_shown_as_error_beside_a_measured_error() -> None:
    made = analyzed([variant("a", STEADY, paper={"top1": 90.25}), variant("b", STEADY)])
    assert [row[-1] for row in contents.variants(made).rows] == ["9.75", formatting.DASH]
    assert "published" not in [column.title for column in contents.variants(analyzed([variant("b", STEADY)])).columns]


def test_two_single_models_are_compared_by_the_images_that_only_one_classifies_correctly() -> None:
    made = analyzed([variant("a", [10.0]), variant("b", [9.0])], contrasts=[Pair("b", "a")])
    table = contents.contrasts(made)
    assert entries(table, 0)["McNemar of these two models"] == "4 against 0 (p 0.125)"  # 2 / 2^4
    assert "McNemar" in table.caption and "McNemar" not in contents.contrasts(small()).caption
    assert "McNemar of these two models" not in entries(contents.contrasts(small()), 0)


def test_unfinished_seeds_are_counted() -> None:
    made = analyzed([variant("a", STEADY)._replace(num_planned=8)])
    assert entries(contents.variants(made), 0)["seeds"] == "6 of 8"


def test_numbers_are_formatted_as_documented() -> None:
    shown = [formatting.signed_number(value, "error") for value in (-0.001, 0.004, -0.006)]
    assert shown == ["+0.00", "+0.00", "−0.01"]  # noqa: RUF001
    assert [formatting.p_value(value) for value in (0.0004, 0.001, 0.0496, 1.0, None)] == [
        "< 0.001",
        "0.001",
        "0.0496",
        "1",
        formatting.DASH,
    ]


def test_the_csv_has_every_mean_in_full_precision_equal_to_scipys() -> None:
    made = small()
    rows = list(csv.DictReader(io.StringIO(writers.csv(made))))
    assert len(rows) == 5 * 3 * 5  # variants, protocols, metrics
    chosen = {row["protocol"]: row for row in rows if row["variant"] == "rising" and row["metric"] == "error"}
    row = chosen["final"]
    assert float(row["mean"]) == np.mean(RISING) and float(row["std"]) == pytest.approx(np.std(RISING, ddof=1))
    oracle = stats.t.interval(0.95, 5, np.mean(RISING), stats.sem(RISING))
    assert (float(row["low"]), float(row["high"])) == pytest.approx(oracle)
    assert (row["num_seeds"], row["samples_seen"], row["steps"], row["minutes"]) == ("6", "8000", "1600", "1.5")
    assert (row["unit"], row["published"]) == ("%", "9.5")
    assert float(chosen["best_on_test"]["mean"]) == np.mean(RISING) - 0.5
    alone = next(row for row in rows if row["variant"] == "alone")
    assert (alone["std"], alone["low"], alone["high"]) == ("", "", "")


def test_the_csv_reads_back_whatever_variants_are_called() -> None:
    assert {row["variant"] for row in csv.DictReader(io.StringIO(writers.csv(hostile())))} == set(HOSTILE)


@pytest.mark.parametrize("analysis", [small(), hostile()], ids=["small", "hostile"])
def test_every_row_of_markdown_has_the_columns_of_its_head(analysis: Analysis) -> None:
    counts: list[int] = []
    for line in writers.markdown(analysis).splitlines():
        if not line.startswith("|"):
            counts.append(0)
            continue
        num_runs = len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) - 1
        assert counts[-1] in (0, num_runs), line
        counts.append(num_runs)
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


def test_latex_escapes_every_special_character() -> None:
    assert writers.in_latex(r"a_b & 5 % $x$ #1 {y} \z ~ ^") == (
        r"a\_\allowbreak{}b \& 5 \% \$x\$ \#1 \{y\} \textbackslash{}z \textasciitilde{} \textasciicircum{}"
    )
    assert writers.in_latex("9 ± 1 − 2× –") == r"9 $\pm$ 1 $-$ 2$\times$ \textendash{}"  # noqa: RUF001
    assert writers.in_latex("--fresh") == "-{}-fresh" and writers.in_latex("[a]") == "{}[a]"


@pytest.mark.parametrize("analysis", [small(), hostile()], ids=["small", "hostile"])
def test_latex_is_balanced_and_every_row_has_the_columns_of_its_head(analysis: Analysis) -> None:
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


@pytest.mark.parametrize("metric", ["error", "top1"])
def test_robustness_has_a_table(metric: str) -> None:
    """Seeds 1 point apart: a 95 % interval with one degree of freedom is 12.706 times 0.5 wide on each side."""
    variants = [variant("a", [10.0, 11.0], of=config(evaluation__robustness_limit=50)), variant("b", [10.0, 11.0])]
    for seed, found in variants[0].records.items():
        found["robustness"] = {"occlusion": {"at": [0, 28.699], "top1": [90.0 - seed, 40.0]}}
    made = analyzed(variants, metrics=(metric,))
    (table,) = [table for table in contents.tables(made) if table.name in contents.ROBUSTNESS]
    assert [column.title for column in table.columns] == ["variant", "0", "28.7"]
    assert table.rows == [["a", *(["10.50 ± 6.35", "60.00"] if metric == "error" else ["89.50 ± 6.35", "40.00"])]]
    for seed, found in variants[1].records.items():  # a little less of larger images
        found["robustness"] = {"occlusion": {"at": [0, 28.72], "top1": [90.0 - seed, 40.0]}}
    shared = contents.robustness(analyzed(variants, metrics=(metric,)), "occlusion")
    assert shared.rows == [table.rows[0], ["b", *table.rows[0][1:]]]
    assert "on test images" in table.caption  # on how many is not said, where variants differ
    assert "on 50 test images" in contents.robustness(analyzed(variants[:1]), "occlusion").caption


def test_the_number_of_trials_is_in_the_table_of_variants() -> None:
    tuned, plain = variant("tuned", STEADY)._replace(num_trials=6), variant("plain", RISING)
    table = contents.variants(analyzed([tuned, plain]))
    column = [head.title for head in table.columns].index("trials")
    assert [row[column] for row in table.rows] == ["6", "\N{EN DASH}"]
    assert "trials" not in [head.title for head in contents.variants(small()).columns]
