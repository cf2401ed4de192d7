"""One function per mode: what the user asked for -> its result, said to people and returned for --json."""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agmax import cli
from agmax.config import names, resolve
from agmax.config.resolve import Resolved, Setting
from agmax.errors import DataError, UsageError

if TYPE_CHECKING:
    from agmax.studies.analysis import Analysis

Result = dict[str, Any]

SMALLEST_TORCH = (2, 10)
"""Older releases load checkpoints unsafely (CVE-2025-32434, CVE-2026-24747)."""


def print_config(request: cli.Request) -> Result:
    """Show every setting and where it came from."""
    if request.source is None:
        raise UsageError("no configuration", remedy="Give --config NAME; see --list")
    resolved = resolve.resolve(request.source, dataset=request.dataset, parts=request.parts, settings=request.settings)
    _print_notes(request, resolved)
    if not request.as_json:
        print(resolve.as_yaml(resolved), end="")
    return resolved.config.model_dump(mode="json")


def list_all(request: cli.Request) -> Result:
    """List the configurations, parts, models or data sets there are."""
    listing = LISTINGS[request.what]()
    if not request.as_json:
        width = max(map(len, listing), default=0)
        print("\n".join(f"{name:<{width}}  {about}".rstrip() for name, about in listing.items()))
    return {"mode": "list", request.what: listing}


def train(request: cli.Request) -> Result:
    """Train, or continue a training; with --n-runs once for each of several seeds."""
    _check_torch()
    from agmax.training import train_once

    if request.num_runs == 1:
        return train_once(request)
    from agmax import run
    from agmax.reports import results
    from agmax.resume import resolved

    if request.resume:
        raise UsageError("several runs cannot continue one", where="--n-runs", remedy="Give --resume without value")
    first = resolved(request).config.train.seed
    made = []
    for seed in range(first, first + request.num_runs):
        settings = (*request.settings, Setting("train.seed", seed, "--n-runs"))
        made.append(train_once(request._replace(settings=settings)))
    summary = results.summary(made)
    spread = summary["top1_spread"]
    text = "%d runs: test top1 mean %.2f, standard deviation %.2f, min %.2f, max %.2f"
    run.log.info(text, len(made), spread["mean"], spread["std"], spread["min"], spread["max"])
    return summary


def evaluate(request: cli.Request) -> Result:
    """Evaluate a checkpoint on a split; nothing is written but what --predictions and --output name."""
    _check_torch()
    from agmax import build, parallel, resume, run
    from agmax.checkpoints import released
    from agmax.reports import results, robustness
    from agmax.training import check_data

    run.log_to([])
    for path in (request.predictions, request.output):
        if path:
            results.probe(Path(path))
    resolved, saved = resume.evaluation_start(
        request, lambda config: build.counted(config, lambda: build.split(config, request.split))
    )
    if request.output and not (resolved.config.evaluation.occlusion or resolved.config.evaluation.offsets):
        why, remedy = "there is nothing to draw", "Add --occlusion or --offsets"
        raise UsageError("flag not followed", where="--output", why=why, remedy=remedy)
    for note in (*request.remarks, *resolved.notes):
        run.log.info("note: %s", note)
    device = parallel.choose_device(resolved.config.train.device)
    data = build.split(resolved.config, request.split)
    config = build.counted(resolved.config, lambda: data)
    if saved is None:
        classifier = build.model(config)
    else:
        weights, allowed = saved.state["model"], request.allow_nonfinite
        classifier = build.restored(config, weights, where=saved.path, saved=saved.config, allow_nonfinite=allowed)
        check_data(saved, config, data.class_names, None)
    evaluator = build.evaluator(config, classifier.to(device), data, device)
    started = time.perf_counter()
    predictions = evaluator.latest()
    seconds = time.perf_counter() - started
    measured = build.robustness(config, classifier, data, device)
    if request.predictions:
        results.write_predictions(Path(request.predictions), {request.split: predictions})
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
    run.log.info(results.line(result))
    for line in robustness.lines(result):
        run.log.info(line)
    is_as_published = (config.dataset.name, request.split) == ("imagenet", "test")
    if saved is not None and saved.path.name in released.RELEASED and is_as_published:
        result |= {"published_top1": released.RELEASED[saved.path.name].top1, "sha256": saved.state["sha256"]}
        size, words = config.test_image_size, "published %.2f, here %.2f: top1 on %d test images of %s, "
        words += "resized to %d (Pillow, bilinear), the centre of %d cut out; sha256 %s"
        about = (result["num_images"], config.dataset.name, size + 32, size, result["sha256"])
        run.log.info(words, result["published_top1"], result["top1"], *about)
    if request.output:
        robustness.save(result, Path(request.output))
        run.log.info("%s shows it", request.output)
    return {key: results.or_none(value) for key, value in result.items()}


def predict(request: cli.Request) -> Result:
    """Classify image files with the weights of a checkpoint."""
    _check_torch()
    from agmax import api, parallel, prediction, resume, run

    run.log_to([])
    if not request.resume:
        raise UsageError("nothing to classify with", remedy="Give --resume CHECKPOINT")
    resolved, saved = resume.evaluation_start(request, lambda config: config)
    assert saved is not None
    for note in (*request.remarks, *resolved.notes):
        run.log.info("note: %s", note)
    paths = prediction.files_of(request.named)
    config = resolved.config
    model = api.of_saved(saved, config, config.train.device)
    num_workers = parallel.num_workers(config.train.num_workers)
    found = prediction.classify(
        model, paths, top_k=request.top_k, batch_size=config.evaluation.batch_size, num_workers=num_workers
    )
    for why in found.unreadable.values():
        run.log.warning("warning: %s", why)
    if not found.found:
        why = "none is an image that can be read"
        raise DataError("nothing classified", where=f"{len(paths)} files", why=why)
    if not request.as_json:
        prediction.write_csv(found, sys.stdout)
    run.log.info("%d of %d images classified with %s", len(found.found), len(paths), saved.path)
    return {"mode": "predict", "checkpoint": str(saved.path), **prediction.as_mapping(found)}


def export(request: cli.Request) -> Result:
    """Write weights for other programs."""
    _check_torch()
    from agmax import api, export, resume, run
    from agmax.reports import results

    run.log_to([])
    if request.normalise and request.what != "onnx":
        raise UsageError("flag not followed", where="--normalise", why="only a graph, --export onnx, can normalise")
    write, ending = export.FORMATS[request.what]
    saved = None
    if request.resume is None:
        resolved = resume.resolved(request)
        config = resolved.config
        model = api.from_resolved(config)
    else:
        resolved, saved = resume.evaluation_start(request, lambda config: config)
        assert saved is not None
        config = resolved.config
        model = api.of_saved(saved, config, "cpu")
    for note in (*request.remarks, *resolved.notes):
        run.log.info("note: %s", note)
    path = Path(os.path.expanduser(request.output or f"{config.name}-{config.dataset.name}{ending}"))
    results.probe(path)
    more: dict[str, Any] = {"with_normalisation": True} if request.normalise else {}
    about = write(model, path, **more)
    source = saved.path if saved else "fresh weights"
    run.log.info("%s holds %s of %s (%.1f MiB)", path, request.what, source, path.stat().st_size / 2**20)
    if about.get("largest_difference") is not None:
        run.log.info("logits in onnxruntime differ by %.1e of their deviation at most", about["largest_difference"])
    return {
        "mode": "export",
        "format": request.what,
        "config": config.name,
        "checkpoint": str(saved.path) if saved else None,
        "file": str(path),
        **about,
    }


def summary(request: cli.Request) -> Result:
    """Show the model's layers and parameters, and the operations that one image takes."""
    _check_torch()
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from agmax import build
    from agmax.resume import resolved

    typed = resolved(request)
    _print_notes(request, typed)
    config = typed.config
    classifier = build.model(config).eval()
    size = config.test_image_size
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        classifier(torch.zeros(1, 1, config.input_channels, size, size))
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in classifier.named_children()}
    result: Result = {
        "mode": "summary",
        "config": config.name,
        "dataset": config.dataset.name,
        "parameters": sum(count.values()),
        "backbone_parameters": count["backbone"],
        "q_network_parameters": count.get("q_network", 0),
        "image_size": size,
        "flops_per_image": counter.get_total_flops(),
    }
    if not request.as_json:
        print(classifier)
        print(
            f"{result['parameters']:,} parameters: {count['backbone']:,} in the backbone with its classifier, "
            f"{result['q_network_parameters']:,} in the Q network, which only training uses\n"
            f"{result['flops_per_image'] / 1e6:,.1f} million floating-point operations for an image of {size}x{size}, "
            "a multiply-add counted as two"
        )
    return result


def preview(request: cli.Request) -> Result:
    """Draw what the model is trained on."""
    _check_torch()
    return PREVIEWS[request.what](request)


def preview_curves(request: cli.Request) -> Result:
    """Draw how the targets soften, and how much of the images is visible."""
    from agmax import build, run
    from agmax.reports import results, softening, style
    from agmax.resume import resolved

    run.log_to([])
    typed = resolved(request)
    name, dataset = typed.config.name, typed.config.dataset.name
    path = Path(os.path.expanduser(request.output or f"softening-{name}-{dataset}.png"))
    results.probe(path)
    for note in (*request.remarks, *typed.notes):
        run.log.info("note: %s", note)
    config = build.counted(typed.config, lambda: build.split(typed.config, "train"))
    drawn = build.softening_shares(config)
    if drawn is None:
        why, remedy = "no part of it softens targets", "Name soft_crop, soft_cutout or soft_random_erasing"
        raise UsageError("nothing to draw", where=name, why=why, remedy=remedy)
    settings = config.augment.softening
    curve = softening.Curve(build.num_classes(config), settings.power, settings.max_confidence)
    window = None
    if config.augment.crop == "soft":
        window = softening.Window(config.dataset.image_size, config.augment.soft.visibility)
    title = f"{name} on {dataset}: {curve.num_classes} classes, {len(drawn):,} views drawn"
    style.save(softening.figure(curve, drawn, window=window, title=title), path)
    run.log.info("%s shows the softening of %s", path, name)
    return {
        "mode": "preview",
        "config": name,
        "dataset": dataset,
        "mean_visible_share": float(drawn.mean()),
        "mean_confidence": float(curve.at(drawn).mean()),
        "file": str(path),
    }


def preview_batch(request: cli.Request) -> Result:
    """Draw the batch of a training's first step, as the model gets it."""
    from agmax import build, parallel, run
    from agmax.data import order
    from agmax.reports import preview, results
    from agmax.resume import resolved

    run.log_to([])
    typed = resolved(request)
    device = parallel.choose_device(typed.config.train.device)
    name, dataset = typed.config.name, typed.config.dataset.name
    path = Path(os.path.expanduser(request.output or f"preview-{name}-{dataset}.png"))
    results.probe(path)
    for note in (*request.remarks, *typed.notes):
        run.log.info("note: %s", note)
    data = build.split(typed.config, "train")
    config = build.counted(typed.config, lambda: data)
    seed, num_views = config.train.seed, config.objective.num_views
    augment = build.augmentation(config, build.num_steps(config, len(data.labels)))
    batches = order.shuffled(len(data.labels), config.train.batch_size, seed=seed, epoch=0)
    source = build.training_source(config, data, device)
    (sample,) = parallel.copied_ahead(source.batches(batches[:1], epoch=0), device)
    batch = augment(sample, step=0)
    mean, std = config.normalisation
    views = "1 view" if num_views == 1 else f"{num_views} views"
    title = f"{name} on {dataset}: seed {seed}, step 0, {views} of each image"
    preview.save(preview.sheet(batch, sample.labels, data.class_names, mean=mean, std=std, title=title), path)
    num_images = min(len(sample.labels), preview.NUM_SHOWN)
    run.log.info("%s shows %d of the %d images of step 0", path, num_images, len(sample.labels))
    return {
        "mode": "preview",
        "config": name,
        "dataset": dataset,
        "num_images": num_images,
        "num_views": num_views,
        "step": 0,
        "file": str(path),
    }


def benchmark(request: cli.Request) -> Result:
    """Time the augmentation, part by part and whole, beside other programs'."""
    _check_torch()
    if request.source or request.settings or request.dataset:
        why = "the benchmark has data and settings of its own, the same on every machine"
        raise UsageError("settings not followed", where="--benchmark", why=why, remedy="Leave them out")
    from agmax.benchmarks import augment

    say = partial(print, file=sys.stderr if request.as_json else sys.stdout, flush=True)
    return {"mode": "benchmark", "what": request.what, **augment.run(say=say)}


def study(request: cli.Request) -> Result:
    """Run what is missing of a study, and report what can be said."""
    _check_torch()
    from agmax import run
    from agmax.studies import study

    run.log_to([])
    result, said, folder = study.run(request)
    return result if said is None else {**result, "files": _reported(said, folder)}


def compare(request: cli.Request) -> Result:
    """Compare finished run folders."""
    _check_torch()
    from agmax import run
    from agmax.studies import analysis, compare

    run.log_to([])
    said, folder = compare.of_runs(request.named, _runs_dir(request))
    return {"mode": "compare", **analysis.as_mapping(said), "files": _reported(said, folder)}


def _reported(said: "Analysis", folder: Path) -> list[str]:
    """Write tables, figures and the page of a comparison, say what it shows, and return the files."""
    from agmax import run
    from agmax.reports import page, words

    written = page.write(said, folder)
    for comparison in (*said.contrasts, *said.checks):
        run.log.info("%s", words.sentence(comparison, said.metrics[0]))
    for note in said.notes:
        run.log.info("note: %s", note)
    run.log.info("written: %s", ", ".join(map(str, written)))
    return [str(path) for path in written]


def download(request: cli.Request) -> Result:
    """Fetch released checkpoints."""
    from agmax import run
    from agmax.checkpoints import released
    from agmax.resume import CHECKPOINTS

    run.log_to([])
    (text,) = request.named
    found = released.named(text)
    if found is None and text != "all":
        raise UsageError("no released checkpoint", where=text, remedy=names.nearest(text, [*released.RELEASED, "all"]))
    files = []
    for name in [found] if found else released.RELEASED:
        file = released.fetched(name, CHECKPOINTS)
        files.append(file._asdict() | {"path": str(file.path)})
        words = "%s: %.1f MiB, sha256 %s, " + ("as recorded" if file.is_verified else "not verified: none is recorded")
        run.log.info(words, file.path, file.size / 2**20, file.sha256)
    return {"mode": "download", "files": files}


def diff(request: cli.Request) -> Result:
    """List the settings and metrics in which two runs differ."""
    _check_torch()
    from agmax.studies import compare

    found = compare.diff(request.named, _runs_dir(request))
    if not request.as_json:
        rows = {**found["settings"], **found["metrics"]}
        width = max(map(len, rows), default=0)
        print(
            "\n".join(f"{key:<{width}}  {first} -> {second}" for key, (first, second) in rows.items())
            or "no difference"
        )
    return found


def _runs_dir(request: cli.Request) -> str:
    typed = [str(setting.value) for setting in request.settings if setting.key == "train.runs_dir"]
    return typed[-1] if typed else "runs"


def _print_notes(request: cli.Request, resolved: Resolved) -> None:
    for note in (*request.remarks, *resolved.notes):
        print(f"note: {note}", file=sys.stderr)


def _check_torch() -> None:
    """Check the library that loads checkpoints, before any data is touched."""
    import torch

    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < SMALLEST_TORCH:
        needed = ".".join(map(str, SMALLEST_TORCH))
        remedy = "Run python3 -m pip install -r requirements.txt"
        raise UsageError("torch is too old", where=torch.__version__, why=f"{needed} or newer is needed", remedy=remedy)


def _configs() -> dict[str, str]:
    files = {path.stem: f"configs/{path.name}" for path in sorted(names.CONFIGS.glob("*.yaml"))}
    return files | {name: "" for name in names.compositions() if name not in files}


def _parts() -> dict[str, str]:
    groups = ("model", "augment", "method")
    return {item.part: f"{item.group}: {item.about}" for group in groups for item in names.examples(group)}


def _models() -> dict[str, str]:
    import timm

    from agmax.models import backbones  # noqa: F401  enters our networks

    return dict.fromkeys(timm.list_models(), "")


LISTINGS: dict[str, Callable[[], dict[str, str]]] = {
    "configs": _configs,
    "parts": _parts,
    "models": _models,
    "datasets": lambda: {item.part: item.about for item in names.examples("dataset")},
}

PREVIEWS: dict[str, Callable[[cli.Request], Result]] = {"batch": preview_batch, "curves": preview_curves}
"""The words of --preview."""

MODES: dict[str, Callable[[cli.Request], Result]] = {
    "train": train,
    "eval": evaluate,
    "print-config": print_config,
    "list": list_all,
    "summary": summary,
    "preview": preview,
    "benchmark": benchmark,
    "study": study,
    "compare": compare,
    "download": download,
    "predict": predict,
    "export": export,
    "diff": diff,
}
