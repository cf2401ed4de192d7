"""Train, and evaluate what was trained."""

import time
from pathlib import Path

from agmax import builders
from agmax.checkpoints import agmax_format
from agmax.cli import parser
from agmax.cli.commands.shared import Result, print_notes
from agmax.config.resolve import Setting
from agmax.core import devices
from agmax.core.errors import UsageError
from agmax.core.logs import log
from agmax.core.storage import check_output, output_file
from agmax.experiments import results, start
from agmax.experiments.train import check_data, train_once
from agmax.reports import robustness


def train(request: parser.Request) -> Result:
    """Train, or continue a training; with --n-runs once for each of several seeds."""
    if request.num_runs == 1:
        return train_once(request)
    if request.resume:
        raise UsageError("several runs cannot continue one", where="--n-runs", remedy="Give --resume without value")
    first = start.resolved(request).config.train.seed
    made = []
    for seed in range(first, first + request.num_runs):
        settings = (*request.settings, Setting("train.seed", seed, "--n-runs"))
        made.append(train_once(request._replace(settings=settings)))
    summary = results.summary(made)
    spread = summary["top1_spread"]
    text = "%d runs: test top1 mean %.2f, standard deviation %.2f, min %.2f, max %.2f"
    log.info(text, len(made), spread["mean"], spread["std"], spread["min"], spread["max"])
    return summary


def evaluate(request: parser.Request) -> Result:
    """Evaluate a checkpoint on a split; nothing is written but what --predictions and --output name."""
    for path in (request.predictions, request.output):
        if path:
            check_output(Path(path), force=request.force)
    resolved, saved = start.evaluation_start(
        request, lambda config: builders.counted(config, lambda: builders.split(config, request.split))
    )
    if request.output and not (resolved.config.evaluation.occlusion or resolved.config.evaluation.offsets):
        why, remedy = "there is nothing to draw", "Add --occlusion or --offsets"
        raise UsageError("flag not followed", where="--output", why=why, remedy=remedy)
    print_notes(request, resolved)
    device = devices.choose_device(resolved.config.train.device)
    data = builders.split(resolved.config, request.split)
    config = builders.counted(resolved.config, lambda: data)
    devices.keep_freed_memory()
    if saved is None:
        classifier = builders.model(config)
    else:
        weights, allowed = saved.state["model"], request.allow_nonfinite
        classifier = builders.restored(config, weights, where=saved.path, saved=saved.config, allow_nonfinite=allowed)
        check_data(saved, config, data.class_names, None)
    evaluator = builders.evaluator(config, classifier.to(device), data, device)
    started = time.perf_counter()
    predictions = evaluator.latest()
    seconds = time.perf_counter() - started
    measured = builders.robustness(config, classifier, data, device)
    if request.predictions:
        with output_file(Path(request.predictions), force=request.force) as file:
            results.write_predictions(file, {request.split: predictions})
    result: Result = {
        "mode": "eval",
        "config": config.name,
        "dataset": config.dataset.name,
        "split": request.split,
        **results.scores(predictions, data.class_names),
        **measured,
        "seed": config.train.seed,
        "epochs": config.train.epochs,
        "run_folder": saved.run_folder if saved else None,
        "checkpoint": str(saved.path) if saved else None,
        "images_per_second": len(predictions.labels) / seconds,
        "seconds": seconds,
    }
    log.info(results.line(result))
    for line in robustness.lines(result):
        log.info(line)
    is_as_published = (config.dataset.name, request.split) == ("imagenet", "test")
    if saved is not None and saved.path.name in agmax_format.RELEASED and is_as_published and "sha256" in saved.state:
        result |= {"published_top1": agmax_format.RELEASED[saved.path.name].top1, "sha256": saved.state["sha256"]}
        size, words = config.test_image_size, "published %.2f, here %.2f: top1 on %d test images of %s, "
        words += "resized to %d (Pillow, bilinear), the centre of %d cut out; sha256 %s"
        about = (result["num_images"], config.dataset.name, size + 32, size, result["sha256"])
        log.info(words, result["published_top1"], result["top1"], *about)
    if request.output:
        robustness.save(result, Path(request.output), force=request.force)
        log.info("%s shows it", request.output)
    return {key: results.or_none(value) for key, value in result.items()}
