"""Use trained weights: classify files, hand them on, fetch released ones."""

import sys
from pathlib import Path
from typing import Any

from agmax import builders
from agmax.checkpoints import agmax_format
from agmax.cli import parser
from agmax.cli.commands.shared import Result, print_notes
from agmax.config import names
from agmax.config.schema import Config
from agmax.core import devices
from agmax.core.errors import CheckpointError, DataError, DownloadError, UsageError
from agmax.core.logs import log
from agmax.core.storage import check_output
from agmax.experiments import export as exporting
from agmax.experiments import model as api
from agmax.experiments import predict as prediction
from agmax.experiments import saved as loading
from agmax.experiments import start


def predict(request: parser.Request) -> Result:
    """Classify image files with the weights of a checkpoint."""
    if not request.resume:
        raise UsageError("nothing to classify with", remedy="Give --resume CHECKPOINT")
    resolved, saved = start.evaluation_start(request, _counted)
    assert saved is not None
    print_notes(request, resolved)
    paths = prediction.files_of(request.named)
    devices.keep_freed_memory()
    config = resolved.config
    model = api.of_saved(saved, config, devices.choose_device(config.train.device))
    num_workers = devices.num_workers(config.train.num_workers)
    found = prediction.classify(
        model, paths, top_k=request.top_k, batch_size=config.evaluation.batch_size, num_workers=num_workers
    )
    for why in found.unreadable.values():
        log.warning("warning: %s", why)
    if not found.found:
        why = "none is an image that can be read"
        raise DataError("nothing classified", where=f"{len(paths)} files", why=why)
    if not request.as_json:
        prediction.write_csv(found, sys.stdout)
    log.info("%d of %d images classified with %s", len(found.found), len(paths), saved.path)
    return {"mode": "predict", "checkpoint": str(saved.path), **prediction.as_mapping(found)}


def export(request: parser.Request) -> Result:
    """Write weights for other programs."""
    if request.normalise and request.what != "onnx":
        raise UsageError("flag not followed", where="--normalise", why="only a graph, --export onnx, can normalise")
    write, ending = exporting.FORMATS[request.what]
    saved = None
    if request.resume is None:
        resolved = start.resolved(request)
        config = resolved.config
        model = api.from_resolved(config)
    else:
        resolved, saved = start.evaluation_start(request, _counted)
        assert saved is not None
        config = resolved.config
        model = api.of_saved(saved, config)
    print_notes(request, resolved)
    path = Path(request.output or f"{config.name}-{config.dataset.name}{ending}")
    check_output(path, force=request.force)
    more: dict[str, Any] = {"with_normalisation": True} if request.normalise else {}
    about = write(model, path, force=request.force, **more)
    source = saved.path if saved else "fresh weights"
    log.info("%s holds %s of %s (%.1f MiB)", path, request.what, source, path.stat().st_size / 2**20)
    if about.get("largest_difference") is not None:
        log.info("logits in onnxruntime differ by %.1e of their deviation at most", about["largest_difference"])
    elif request.what == "onnx":
        log.warning("warning: its logits are not compared with the model's: onnxruntime is not installed")
    return {
        "mode": "export",
        "format": request.what,
        "config": config.name,
        "checkpoint": str(saved.path) if saved else None,
        "file": str(path),
        **about,
    }


def _counted(config: Config) -> Config:
    """Fill in the number of classes of a configuration whose newest run is asked for."""
    return builders.counted(config, lambda: builders.split(config, "train"))


def download(request: parser.Request) -> Result:
    """Fetch released checkpoints."""
    (text,) = request.named
    found = agmax_format.named(text)
    if found is None and text != "all":
        raise UsageError(
            "no released checkpoint", where=text, remedy=names.nearest(text, [*agmax_format.RELEASED, "all"])
        )
    files, failed = [], []
    for name in [found] if found else agmax_format.RELEASED:
        try:
            file = agmax_format.examined(agmax_format.fetched(name, loading.CHECKPOINTS))
        except (DownloadError, CheckpointError) as error:
            if found:
                raise
            log.warning("warning: %s", error)
            failed.append(name)
            continue
        files.append(file._asdict() | {"path": str(file.path)})
        words = "%s: %.1f MiB, sha256 %s, " + ("as recorded" if file.is_verified else "not verified: none is recorded")
        log.info(words, file.path, file.size / 2**20, file.sha256)
    if failed:
        raise DownloadError("not all files are there", where=", ".join(failed), why="the warnings above say why")
    return {"mode": "download", "files": files}
