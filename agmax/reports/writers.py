"""Write the tables of a study as CSV, Markdown and LaTeX."""

import csv as csv_module
import io
import re

from agmax.evaluation.metrics import METRICS
from agmax.reports import formatting, tables
from agmax.reports.formatting import plain
from agmax.reports.tables import Column, Table
from agmax.studies.analysis import Analysis

FIELDS = (
    "variant",
    "protocol",
    "metric",
    "unit",
    "mean",
    "std",
    "low",
    "high",
    "num_seeds",
    "samples_seen",
    "steps",
    "minutes",
    "published",
)
"""Columns of the CSV; low and high are the ends of the 95 % interval, unknown values are empty."""

WIDE = 8
"""Number of columns above which a LaTeX table is rotated."""

IN_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_\allowbreak{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    formatting.PLUS_MINUS: r"$\pm$",
    formatting.MINUS: "$-$",
    formatting.TIMES: r"$\times$",
    formatting.DASH: r"\textendash{}",
}


def csv(analysis: Analysis) -> str:
    """Return all means in full precision, one line for each variant, protocol and metric."""
    text = io.StringIO()
    writer = csv_module.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for variant in analysis.variants:
        for protocol, by_metric in variant.means.items():
            for metric, mean in by_metric.items():
                low, high = mean.interval or (None, None)
                writer.writerow(
                    {
                        "variant": variant.name,
                        "protocol": protocol,
                        "metric": metric,
                        "unit": METRICS[metric].unit,
                        "mean": mean.mean,
                        "std": mean.std,
                        "low": low,
                        "high": high,
                        "num_seeds": mean.num_seeds,
                        "samples_seen": variant.samples_seen,
                        "steps": variant.steps,
                        "minutes": round(variant.minutes, 3),
                        "published": formatting.published_number(variant, metric),
                    }
                )
    return text.getvalue()


def markdown(analysis: Analysis) -> str:
    """Return all tables and the notes as GitHub Markdown."""
    lines = [f"# {in_markdown(analysis.title)}", ""]
    lines += [in_markdown(analysis.about), ""] if analysis.about else []
    for table in tables.tables(analysis):
        lines += [f"## {table.title}", "", in_markdown(table.caption), ""]
        lines += [_markdown_row([column.title for column in table.columns])]
        lines += ["|" + "|".join("---" if column.is_text else "---:" for column in table.columns) + "|"]
        lines += [_markdown_row(row) for row in table.rows]
        lines += ["", *(f"{in_markdown(note)}  " for note in table.notes), ""] if table.notes else [""]
    if analysis.notes:
        lines += ["## Notes", "", *(f"- {in_markdown(note)}" for note in analysis.notes), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _markdown_row(entries: list[str]) -> str:
    return f"| {' | '.join(in_markdown(entry) for entry in entries)} |"


def in_markdown(text: str) -> str:
    """Escape the markup of Markdown and HTML; an underscore inside a word is not markup."""
    text = re.sub(r"([\\`*~|])", r"\\\1", plain(text))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\_", text)
    text = re.sub(r"\](?=[(\[:])", r"\]", text)  # the end of a link's text
    text = re.sub(r"^(?=#|[+=-](\s|$))", r"\\", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex(analysis: Analysis) -> str:
    """Return all tables and the notes as LaTeX for the packages booktabs and rotating.

    A table wider than the text is scaled down.
    """
    lines = [f"% {plain(analysis.title)}", r"% \usepackage{booktabs, rotating}", ""]
    for table in tables.tables(analysis):
        lines += [*_latex_table(table), ""]
    if analysis.notes:
        lines += [r"\begin{itemize}", *(rf"\item {in_latex(note)}" for note in analysis.notes), r"\end{itemize}", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _latex_table(table: Table) -> list[str]:
    environment = "sidewaystable" if len(table.columns) > WIDE else "table"
    return [
        rf"\begin{{{environment}}}",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{in_latex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\sbox0{%",
        rf"\begin{{tabular}}{{@{{}}{''.join(_latex_column(column) for column in table.columns)}@{{}}}}",
        r"\toprule",
        " & ".join(_latex_head(column) for column in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(in_latex(entry) for entry in row) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}%",
        r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
        *(rf"\par\smallskip {in_latex(note)}" for note in table.notes),
        rf"\end{{{environment}}}",
    ]


def _latex_column(column: Column) -> str:
    return r"p{30mm}" if column.is_text else "r"


def _latex_head(column: Column) -> str:
    """Return the title of a column, in several lines if it is long and the column has numbers."""
    title = in_latex(column.title)
    return rf"\parbox[b]{{18mm}}{{\raggedleft {title}}}" if len(column.title) > 14 and not column.is_text else title


def in_latex(text: str) -> str:
    """Escape the markup of LaTeX, also double hyphens and a bracket at the start."""
    escaped = "".join(IN_LATEX.get(letter, letter) for letter in plain(text))
    return re.sub(r"-(?=-)|^(?=[\[*])", lambda match: match[0] + "{}", escaped)
