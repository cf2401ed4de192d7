"""--eval: evaluate a checkpoint on a split; writes only the files of --predictions and --output."""

from pathlib import Path

from agmax.cli.commands.shared import ModeResult, figure_path, print_notes
from agmax.cli.parser import Request
from agmax.core.errors import UsageError
from agmax.core.logs import log
from agmax.core.storage import check_output, output_file
from agmax.experiments import results
from agmax.experiments.evaluate import evaluate
from agmax.experiments.results import Metrics
from agmax.experiments.start import find_weights
from agmax.reports import robustness


def run(request: Request) -> ModeResult:
    """Evaluate the checkpoint of the request."""
    options = request.options
    split = options["split"] or "test"
    output = figure_path(options["output"], "") if options["output"] is not None else None
    predictions, force = options["predictions"], options["force"]
    if output is not None and str(output) == predictions:
        why = "--output and --predictions have the same name"
        raise UsageError("one file for two outputs", where=predictions, why=why, remedy="Give two names")
    for path in (predictions, output):
        if path:
            check_output(Path(path), force=force)
    start = find_weights(request.config_request, split=split)
    config = start.resolved.config
    if output and not (config.evaluation.occlusion or config.evaluation.offsets):
        why, remedy = "there is nothing to draw", "Add --occlusion or --offsets"
        raise UsageError("flag not supported", where="--output", why=why, remedy=remedy)
    print_notes(request, start.resolved)
    evaluation = evaluate(start, split=split, allow_nonfinite=options["allow_nonfinite"])
    if predictions:
        with output_file(Path(predictions), force=force) as file:
            results.write_predictions(file, {split: evaluation.predictions})
    for line in results.format_lines(evaluation.metrics):
        log.info(line)
    if evaluation.metrics.published:
        _log_published(evaluation.metrics, config.test_image_size)
    result = evaluation.metrics.to_dict()
    if output:
        robustness.save(result, output, force=force)
        log.info("figure: %s", output)
    return result


def _log_published(metrics: Metrics, size: int) -> None:
    """Log the published accuracy of the same file beside the measured one."""
    text = "top1 published %.2f, measured %.2f on %d test images of %s, "
    text += "resized to %d (Pillow, bilinear), center crop of %d; sha256 %s"
    about = (metrics.num_images, metrics.dataset, size + 32, size, metrics.published["sha256"])
    log.info(text, metrics.published["published_top1"], metrics.top1, *about)
