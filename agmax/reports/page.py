"""Write a study as one self-contained HTML file, with its tables and figures as separate files."""

import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from agmax.core import storage
from agmax.reports import figures, style, writers
from agmax.reports import tables as contents
from agmax.reports.figures import Drawing
from agmax.reports.formatting import DASH, plain, sentence
from agmax.reports.tables import Column, Table
from agmax.studies.analysis import Analysis

FOLDER = Path(__file__).parent


def page(analysis: Analysis, drawings: Sequence[Drawing]) -> str:
    """Return the HTML page: conclusions, tables, figures, settings, environment, notes.

    The page loads no other files and runs no scripts.
    """
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(FOLDER),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["allow_breaks"] = allow_breaks
    by_name = {drawing.name: drawing for drawing in drawings}
    return environment.get_template("page.html.j2").render(
        analysis=analysis,
        conclusions=[sentence(item, analysis.metrics[0]) for item in analysis.contrasts],
        failures=[sentence(item, analysis.metrics[0]) for item in analysis.checks if item.holds is False],
        num_checks_passed=sum(item.holds is True for item in analysis.checks),
        tables={table.name: table for table in contents.tables(analysis)},
        settings=settings(analysis),
        drawings={name: (drawing.caption, svg(drawing)) for name, drawing in by_name.items()},
        plain=plain,
    )


def settings(analysis: Analysis) -> Table:
    """Return the table of the settings that differ between variants, one row for each variant."""
    keys = sorted({key for variant in analysis.variants for key in variant.settings})
    columns = [Column("variant", is_text=True), *(Column(key, is_text=True) for key in keys)]
    rows = [
        [plain(variant.name), *(_value(variant.settings.get(key)) for key in keys)]
        for variant in analysis.variants
        if keys
    ]
    caption = "The settings that differ between variants. All other settings are equal, and so are the seeds."
    return Table("settings", "Settings", caption, columns, rows, [])


def _value(value: Any) -> str:
    """Format a setting as in YAML."""
    words: dict[Any, str] = {None: DASH, True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else plain(str(value))


def svg(drawing: Drawing) -> Markup:
    """Return a figure as an <svg> element without a background, in the text color of the page.

    Its identifiers begin with the name of the drawing, so that one page can contain several.
    """
    text, metadata = StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": drawing.name}):
        style.render(drawing.figure, text, format="svg", transparent=True, metadata=metadata)
    markup = text.getvalue()
    markup = markup[markup.index("<svg") :]
    markup = re.sub(r"<!--.*?-->\s*", "", markup, flags=re.DOTALL)
    markup = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{drawing.name}-", markup)
    box = re.search(r'viewBox="[^"]*"', markup)
    assert box is not None, "matplotlib writes a viewBox"
    inside = markup[markup.index(">") + 1 :].strip().replace(style.INK, "currentColor")
    label = Markup.escape(drawing.caption)
    return Markup(f'<svg {box[0]} role="img" aria-label="{label}">{inside}')


def allow_breaks(text: str) -> Markup:
    """Escape a name, and allow line breaks after dots, underscores and slashes."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/])(?=[^\W\d])", text))


def write(analysis: Analysis, folder: Path) -> list[Path]:
    """Write study.csv, study.md, study.tex, the figures as PNG and report.html, each atomically; return the paths.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    drawings = figures.drawings(analysis)
    texts = {
        "study.csv": writers.csv(analysis),
        "study.md": writers.markdown(analysis),
        "study.tex": writers.latex(analysis),
        "report.html": page(analysis, drawings),
    }
    storage.make_folder(folder)
    for name, text in texts.items():
        storage.write_file(folder / name, text)
    for drawing in drawings:
        with storage.atomic_file(folder / f"{drawing.name}.png") as file:
            style.save(drawing.figure, file)
    return [folder / name for name in (*texts, *(f"{drawing.name}.png" for drawing in drawings))]
