"""Compare variants in a study, run folders, and programs by their speed."""

import sys
from functools import partial
from pathlib import Path

from agmax.benchmarks import augment, evaluation
from agmax.cli import parser
from agmax.cli.commands.shared import Result
from agmax.core.errors import UsageError
from agmax.core.logs import log
from agmax.experiments import start
from agmax.reports import formatting, page
from agmax.studies import analysis
from agmax.studies import compare as comparing
from agmax.studies import study as studying
from agmax.studies.analysis import Analysis


def study(request: parser.Request) -> Result:
    """Run what is missing of a study, and report what can be said."""
    result, said, folder = studying.run(request)
    return result if said is None else {**result, "files": _reported(said, folder)}


def compare(request: parser.Request) -> Result:
    """Compare finished run folders."""
    said, folder = comparing.of_runs(request.named, start.runs_dir(request))
    return {"mode": "compare", **analysis.as_mapping(said), "files": _reported(said, folder)}


def diff(request: parser.Request) -> Result:
    """List the settings and metrics in which two runs differ."""
    found = comparing.diff(request.named, start.runs_dir(request))
    if not request.as_json:
        rows = {**found["settings"], **found["metrics"]}
        width = max(map(len, rows), default=0)
        print(
            "\n".join(f"{key:<{width}}  {first} -> {second}" for key, (first, second) in rows.items())
            or "no difference"
        )
    return found


def benchmark(request: parser.Request) -> Result:
    """Time the augmentation, or an evaluation, beside other programs'."""
    if request.source or request.settings or request.dataset:
        why = "the benchmark has data and settings of its own, the same on every machine"
        raise UsageError("settings not followed", where="--benchmark", why=why, remedy="Leave them out")
    program = {"augment": augment, "evaluation": evaluation}[request.what]
    say = partial(print, file=sys.stderr if request.as_json else sys.stdout, flush=True)
    return {"mode": "benchmark", "what": request.what, **program.run(say=say)}


def _reported(said: Analysis, folder: Path) -> list[str]:
    """Write tables, figures and the page of a comparison, say what it shows, and return the files."""
    written = page.write(said, folder)
    for comparison in (*said.contrasts, *said.checks):
        log.info("%s", formatting.sentence(comparison, said.metrics[0]))
    for note in said.notes:
        log.info("note: %s", note)
    log.info("written: %s", ", ".join(map(str, written)))
    return [str(path) for path in written]
