"""--train: train, or continue a training; with --n-runs, once for each of several seeds."""

import time

from agmax.cli.commands.shared import ModeResult
from agmax.cli.parser import Request
from agmax.config import resolve
from agmax.config.resolve import Setting
from agmax.core.errors import UsageError
from agmax.core.logs import log
from agmax.experiments import results
from agmax.experiments.start import AUTO, find_start
from agmax.experiments.train import train


def run(request: Request) -> ModeResult:
    """Train the configuration of the request."""
    config_request, num_runs, began = request.config_request, request.options["n_runs"], time.perf_counter()
    if num_runs == 1:
        with find_start(config_request) as start:
            return train(start, remarks=request.remarks, began=began).to_dict()
    if config_request.resume not in (None, "", AUTO):
        why, remedy = "one checkpoint cannot be continued by several runs", "Give --resume without value"
        raise UsageError("flag not supported", where="--n-runs", why=why, remedy=remedy)
    first = resolve.layer_config(config_request).resolve().config.train.seed
    finished = []
    for seed in range(first, first + num_runs):
        settings = (*config_request.settings, Setting("train.seed", seed, "--n-runs"))
        with find_start(config_request._replace(settings=settings), or_new=True) as start:
            finished.append(train(start, remarks=request.remarks, began=began))
    summary = results.summary(finished)
    spread = summary["top1_spread"]
    text = "%d runs: test top1 mean %.2f, standard deviation %.2f, min %.2f, max %.2f"
    log.info(text, len(finished), spread["mean"], spread["std"], spread["min"], spread["max"])
    return summary
