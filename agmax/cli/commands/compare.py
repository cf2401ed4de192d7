"""--compare: compare finished run folders."""

from pathlib import Path

from agmax.cli.commands.shared import Result
from agmax.cli.parser import Request
from agmax.core.logs import log
from agmax.experiments.start import runs_dir
from agmax.reports import formatting, page
from agmax.studies import analysis
from agmax.studies import compare as comparing
from agmax.studies.analysis import Analysis


def run(request: Request) -> Result:
    """Compare the runs that are named."""
    said, folder = comparing.compare_runs(request.options["names"], runs_dir(request.config_request))
    return {"mode": "compare", **analysis.as_mapping(said), "files": report(said, folder)}


def report(said: Analysis, folder: Path) -> list[str]:
    """Write tables, figures and the page of a comparison, say what it shows, and return the files."""
    written = page.write(said, folder)
    for comparison in (*said.contrasts, *said.checks):
        log.info("%s", formatting.sentence(comparison, said.metrics[0]))
    for note in said.notes:
        log.info("note: %s", note)
    log.info("written: %s", ", ".join(map(str, written)))
    return [str(path) for path in written]
