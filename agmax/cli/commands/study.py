"""--study: train the missing runs of a study, and report its results."""

from agmax.cli.commands.compare import report
from agmax.cli.commands.shared import ModeResult
from agmax.cli.parser import Request
from agmax.studies import spec, study
from agmax.studies.plan import TypedSettings
from agmax.studies.study import Options


def run(request: Request) -> ModeResult:
    """Run the study of the request."""
    config_request, given = request.config_request, request.options
    options = Options(
        dry_run=given["dry_run"],
        fresh=given["fresh"],
        jobs=given["jobs"],
        run_number=given["run"],
        print_slurm=given["print_slurm"],
        imports=request.imports,
        words=tuple(word for word in given["argv"] if word not in ("--print-slurm", "--json")),
    )
    (name,) = given["names"]
    outcome = study.run(
        spec.find_study(name),
        TypedSettings(config_request.dataset, config_request.parts, config_request.settings),
        options,
    )
    if "script" in outcome.result and not request.as_json:
        print(outcome.result["script"], end="")
    if outcome.analysis is None:
        return outcome.result
    return {**outcome.result, "files": report(outcome.analysis, outcome.folder)}
