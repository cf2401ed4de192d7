"""--compare: compare finished run folders."""

from pathlib import Path

from agmax.cli.commands.shared import ModeResult
from agmax.cli.parser import Request
from agmax.core.logs import log
from agmax.experiments.start import runs_dir
from agmax.reports import formatting, page
from agmax.studies import analysis, compare
from agmax.studies.analysis import Analysis


def run(request: Request) -> ModeResult:
    """Compare the runs of the request."""
    analyzed, folder = compare.compare_runs(request.options["names"], runs_dir(request.config_request))
    return {"mode": "compare", **analysis.as_mapping(analyzed), "files": report(analyzed, folder)}


def report(analyzed: Analysis, folder: Path) -> list[str]:
    """Write tables, figures and the HTML page of an analysis, log its conclusions, and return the files."""
    written = page.write(analyzed, folder)
    for comparison in (*analyzed.contrasts, *analyzed.checks):
        log.info("%s", formatting.sentence(comparison, analyzed.metrics[0]))
    for note in analyzed.notes:
        log.info("note: %s", note)
    log.info("written: %s", ", ".join(map(str, written)))
    return [str(path) for path in written]
