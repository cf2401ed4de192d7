"""--benchmark: time the augmentation or an evaluation together with other programs, or the saving of a checkpoint."""

import sys
from functools import partial

from agmax.benchmarks import augment, evaluation, saving
from agmax.cli.commands.shared import ModeResult
from agmax.cli.parser import Request
from agmax.core.errors import UsageError


def run(request: Request) -> ModeResult:
    """Run the benchmark of the request."""
    config_request, word = request.config_request, request.options["word"]
    if config_request.source or config_request.settings or config_request.dataset:
        why = "the benchmark has fixed data and settings, the same on every machine"
        raise UsageError("settings not supported", where="--benchmark", why=why, remedy="Leave them out")
    program = {"augment": augment, "evaluation": evaluation, "saving": saving}[word]
    report = partial(print, file=sys.stderr if request.as_json else sys.stdout, flush=True)
    return {"mode": "benchmark", "what": word, **program.run(report=report)}
