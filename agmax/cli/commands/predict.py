"""--predict: classify image files with the weights of a checkpoint."""

import sys

from agmax.cli.commands.shared import ModeResult, print_notes
from agmax.cli.parser import Request
from agmax.core import devices
from agmax.core.errors import DataError, UsageError
from agmax.core.logs import log
from agmax.experiments import model, predict
from agmax.experiments.start import find_weights


def run(request: Request) -> ModeResult:
    """Classify the image files of the request."""
    if not request.config_request.resume:
        raise UsageError("no checkpoint", remedy="Give --checkpoint FILE")
    start = find_weights(request.config_request)
    assert start.checkpoint is not None
    print_notes(request, start.resolved)
    paths = predict.image_files(request.options["names"])
    devices.keep_freed_memory()
    config = start.resolved.config
    result = predict.predict_files(
        model.from_checkpoint(start.checkpoint, config, devices.choose_device(config.train.device)),
        paths,
        top_k=request.options["top_k"] or 5,
        batch_size=config.evaluation.batch_size,
        num_workers=devices.num_workers(config.train.num_workers),
    )
    for why in result.unreadable.values():
        log.warning("warning: %s", why)
    if not result.readable:
        why = "none is a readable image"
        raise DataError("no image classified", where=f"{len(paths)} files", why=why)
    if not request.as_json:
        predict.write_csv(result, sys.stdout)
    path = start.checkpoint.path
    log.info("%d of %d images classified with %s", len(result.readable), len(paths), path)
    return {"mode": "predict", "checkpoint": str(path), **predict.as_mapping(result)}
