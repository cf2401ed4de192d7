"""--export: write weights for other programs."""

from pathlib import Path
from typing import Any

from agmax.cli.commands.shared import ModeResult, print_notes
from agmax.cli.parser import Request
from agmax.config import resolve
from agmax.core.errors import UsageError
from agmax.core.logs import log
from agmax.core.storage import check_output
from agmax.experiments import export, model
from agmax.experiments.start import Start, find_weights


def run(request: Request) -> ModeResult:
    """Write the weights of a checkpoint, or the initial weights of a configuration."""
    options = request.options
    word, normalizes = options["word"], options["normalize"]
    if normalizes and word != "onnx":
        raise UsageError("flag not supported", where="--normalize", why="only --export onnx can include normalization")
    write, ending = export.FORMATS[word]
    is_initial = request.config_request.resume is None
    start = (
        Start(resolve.layer_config(request.config_request).resolve(), None)
        if is_initial
        else find_weights(request.config_request)
    )
    config, checkpoint = start.resolved.config, start.checkpoint
    exported = model.from_checkpoint(checkpoint, config) if checkpoint else model.from_config(config)
    print_notes(request, start.resolved)
    path = Path(options["output"] or f"{config.name}-{config.dataset.name}{ending}")
    check_output(path, force=options["force"])
    more: dict[str, Any] = {"with_normalization": True} if normalizes else {}
    about = write(exported, path, force=options["force"], **more)
    source = checkpoint.path if checkpoint else "initial weights"
    log.info("%s contains %s of %s (%.1f MiB)", path, word, source, path.stat().st_size / 2**20)
    if about.get("largest_difference") is not None:
        log.info(
            "largest difference of logits in onnxruntime: %.1e of their standard deviation", about["largest_difference"]
        )
    elif word == "onnx":
        log.warning("warning: logits are not compared with the model's: onnxruntime is not installed")
    return {
        "mode": "export",
        "format": word,
        "config": config.name,
        "checkpoint": str(checkpoint.path) if checkpoint else None,
        "file": str(path),
        **about,
    }
