"""--eval: evaluate a checkpoint on a split; nothing is written but what --predictions and --output name."""

from pathlib import Path

from agmax.cli.commands.shared import Result, picture, print_notes
from agmax.cli.parser import Request
from agmax.core.errors import UsageError
from agmax.core.logs import log
from agmax.core.storage import check_output, output_file
from agmax.experiments import results
from agmax.experiments.evaluate import evaluate
from agmax.experiments.results import Metrics
from agmax.experiments.start import find_weights
from agmax.reports import robustness


def run(request: Request) -> Result:
    """Evaluate as asked."""
    options = request.options
    split = options["split"] or "test"
    output = picture(options["output"], "") if options["output"] is not None else None
    predictions, force = options["predictions"], options["force"]
    if output is not None and str(output) == predictions:
        why = "the picture and the predictions would be one file"
        raise UsageError("one name given twice", where=predictions, why=why, remedy="Give two names")
    for path in (predictions, output):
        if path:
            check_output(Path(path), force=force)
    start = find_weights(request.config_request, split=split)
    config = start.resolved.config
    if output and not (config.evaluation.occlusion or config.evaluation.offsets):
        why, remedy = "there is nothing to draw", "Add --occlusion or --offsets"
        raise UsageError("flag not followed", where="--output", why=why, remedy=remedy)
    print_notes(request, start.resolved)
    found = evaluate(start, split=split, allow_nonfinite=options["allow_nonfinite"])
    if predictions:
        with output_file(Path(predictions), force=force) as file:
            results.write_predictions(file, {split: found.predictions})
    for line in results.format_lines(found.metrics):
        log.info(line)
    if found.metrics.published:
        _compare_with_published(found.metrics, config.test_image_size)
    answer = found.metrics.to_dict()
    if output:
        robustness.save(answer, output, force=force)
        log.info("%s shows it", output)
    return answer


def _compare_with_published(found: Metrics, size: int) -> None:
    """Say what the authors measured with the same file."""
    words = "published %.2f, here %.2f: top1 on %d test images of %s, "
    words += "resized to %d (Pillow, bilinear), the centre of %d cut out; sha256 %s"
    about = (found.num_images, found.dataset, size + 32, size, found.published["sha256"])
    log.info(words, found.published["published_top1"], found.top1, *about)
