"""--diff: list the settings and metrics in which two runs differ."""

from agmax.cli.commands.shared import ModeResult
from agmax.cli.parser import Request
from agmax.experiments.start import runs_dir
from agmax.studies import compare


def run(request: Request) -> ModeResult:
    """List the differences between the two runs of the request."""
    differences = compare.diff(request.options["names"], runs_dir(request.config_request))
    if not request.as_json:
        rows = {**differences["settings"], **differences["metrics"]}
        width = max(map(len, rows), default=0)
        print(
            "\n".join(f"{key:<{width}}  {first} -> {second}" for key, (first, second) in rows.items())
            or "no difference"
        )
    return differences
