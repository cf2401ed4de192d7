"""One function per mode: what the user asked for -> its result, said to people and returned for --json."""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agmax import cli
from agmax.config import names, resolve
from agmax.config.resolve import Resolved, Setting
from agmax.errors import DataError, UsageError, printable

if TYPE_CHECKING:
    import torch

    from agmax.config.schema import Config
    from agmax.resume import Saved
    from agmax.run import Run
    from agmax.trainer import Trainer

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
    if request.num_runs == 1:
        return _train_once(request)
    from agmax import run
    from agmax.reports import results
    from agmax.resume import resolved

    if request.resume:
        raise UsageError("several runs cannot continue one", where="--n-runs", remedy="Give --resume without value")
    first = resolved(request).config.train.seed
    made = []
    for seed in range(first, first + request.num_runs):
        settings = (*request.settings, Setting("train.seed", seed, "--n-runs"))
        made.append(_train_once(request._replace(settings=settings)))
    summary = results.summary(made)
    spread = summary["top1_spread"]
    text = "%d runs: test top1 mean %.2f, standard deviation %.2f, min %.2f, max %.2f"
    run.log.info(text, len(made), spread["mean"], spread["std"], spread["min"], spread["max"])
    return summary


def _train_once(request: cli.Request) -> Result:
    from agmax import build, parallel, resume, run

    run.log_to([])
    resolved, saved = resume.training_start(request)
    build.refuse_unfinished(resolved.config)
    device = parallel.choose_device(resolved.config.train.device)
    run.probe(resolved.config.train.runs_dir)
    config = build.counted(resolved.config, lambda: build.split(resolved.config, "train"))
    resolved = resolved._replace(config=config)
    continued = resume.run_to_continue(request, config)
    if continued is None:
        twin = resume.unfinished_twin(config)
        if twin:
            run.log.info("note: %s has these settings and is not finished; --resume without value continues it", twin)
        return _train_in(None, request, resolved, saved, device)
    with continued.locked():
        result: Result | None = continued.read_json("result.json")
        if result is not None:
            run.log.info("%s is finished: test top1 %.2f %%", continued.path, result["top1"])
            return result
        return _train_in(continued, request, resolved, resume.newest(continued), device)


def _train_in(
    continued: "Run | None", request: cli.Request, resolved: Resolved, saved: "Saved | None", device: "torch.device"
) -> Result:
    """Train in the run folder that is continued, or in a new one, from a checkpoint where there is one."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from agmax import build, parallel, resume, run

    config = resolved.config
    data = build.splits(config)
    class_names = data.train.class_names
    total_steps = config.train.epochs * build.num_steps(config, data)
    if saved is not None:
        _check_data(saved, config, class_names, len(data.train.labels) if continued else None)
        if not continued and saved.state["step"] >= total_steps:
            why = f"{saved.path} is after step {saved.state['step']}, the training ends with step {total_steps}"
            raise UsageError("nothing left to train", where="--resume", why=why, remedy="Raise train.epochs")
    parallel.choose_algorithms(deterministic=config.train.deterministic)
    classifier = build.model(config, with_pretrained=saved is None)
    if saved is not None:
        _load_weights(classifier, saved, config)
    folder = continued or run.Run.create(config.train.runs_dir, config.name, resume.stem(config))
    with nullcontext() if continued else folder.locked():
        if continued is None:
            folder.write_text("config.yaml", resolve.as_yaml(resolved))
        run.log_to([folder.path / "train.log"])
        first_step = saved.state["step"] if saved and continued else 0
        trainer = build.trainer(
            config, data, classifier.to(device), device=device, folder=folder, first_step=first_step
        )
        _announce(request, resolved, trainer, folder, f"{_classes(class_names)}, on {parallel.described(device)}")
        if saved is not None:
            _restore(trainer, saved, config, is_same_run=continued is not None)
        if continued is not None:
            folder.forget_after(trainer.step)
        _record_environment(folder, run.environment(**parallel.machine(device, trainer.classifier.autocast)))
        with logging_redirect_tqdm([run.log]):  # lines stand above the bar
            trainer.fit()
        return _finish(config, trainer, folder, data.test.class_names)


def _check_data(saved: "Saved", config: "Config", class_names: tuple[str, ...], num_images: int | None) -> None:
    """Compare the classes with those that the weights know, and the images with those that a run began with.

    Raises:
        DataError: the same data set has other classes or, where `num_images` is given, another number of images.
    """
    from agmax.run import log

    before = saved.state["class_names"]
    if list(class_names) != before:
        here, there = _classes(class_names), _classes(tuple(before))
        if config.dataset.name == saved.config.dataset.name:
            raise DataError("classes have changed", where=config.dataset.root, why=f"{here}, the weights know {there}")
        log.info("note: classes are matched by their place: %s here, the weights know %s", here, there)
    if num_images not in (None, saved.state["num_images"]):
        why = f"{num_images} images to train on, there were {saved.state['num_images']}"
        remedy = "Restore them, or start a new run from the weights: --resume with the path of a checkpoint"
        raise DataError(
            "the data set has changed since the run began", where=config.dataset.root, why=why, remedy=remedy
        )


def _load_weights(classifier: Any, saved: "Saved", config: "Config") -> None:
    from agmax.checkpoints.load import load_weights

    described = [
        f"{item.model.backbone}, {item.input_channels} channels, {classes} classes, {item.objective.name}"
        for item in (saved.config, config)
        for classes in (item.dataset.num_classes,)
    ]
    load_weights(classifier, saved.state["model"], where=saved.path, saved=described[0], wanted=described[1])


def _announce(request: cli.Request, resolved: Resolved, trainer: "Trainer", folder: "Run", more: str) -> None:
    """Say what is about to happen: steps, sizes, classes, device, folder."""
    from agmax.run import log

    log.info(
        "%s on %s: %d epochs of %d steps with %d images, checkpoints of %.1f MiB (three at most), %s",
        resolved.config.name,
        resolved.config.dataset.name,
        trainer.epochs,
        trainer.steps_per_epoch,
        len(trainer.data),
        trainer.checkpoint_bytes / 2**20,
        more,
    )
    for note in (*request.remarks, *resolved.notes):
        log.info("note: %s", note)
    log.info("run folder %s", folder.path)


def _classes(names: tuple[str, ...]) -> str:
    return printable(f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")


def _restore(trainer: "Trainer", saved: "Saved", config: "Config", *, is_same_run: bool) -> None:
    """Continue after the checkpoint's step, saying what is different from then.

    A new folder begins with a checkpoint of its own: were it killed at once, it would still know where it came from.
    """
    from agmax.resume import NOT_THE_RESULT
    from agmax.run import log

    before = saved.config.optimizer
    has_same_optimizer = (before.name, before.decay_bias_and_norm) == (
        config.optimizer.name,
        config.optimizer.decay_bias_and_norm,
    )
    trainer.restore(saved.state, with_optimizer=has_same_optimizer, with_sums=is_same_run)
    log.info("continuing after step %d of %d, from %s", trainer.step, trainer.total_steps, saved.path)
    for difference in resolve.differences(saved.config, config, ignore=NOT_THE_RESULT):
        log.info("changed %s", difference)
    if not has_same_optimizer:
        log.info("the optimizer starts anew")
    if not is_same_run:
        trainer.save()


def _record_environment(folder: "Run", environment: Result) -> None:
    """Write environment.json; where a run goes on elsewhere, say what its bits may depend on."""
    from agmax.parallel import BITS_DEPEND_ON
    from agmax.run import log

    before: Result = folder.read_json("environment.json") or environment
    for key in ("torch", *BITS_DEPEND_ON):
        if before.get(key) != environment[key]:
            log.warning("warning: not bit-exact: %s was %s, is %s", key, before.get(key), environment[key])
    folder.write_json("environment.json", environment)


def _finish(config: "Config", trainer: "Trainer", folder: "Run", class_names: tuple[str, ...]) -> Result:
    """Write the predictions and the result of a training that has reached its last epoch."""
    from agmax.reports import results
    from agmax.run import log

    predictions = {split: evaluator.latest() for split, evaluator in trainer.evaluators.items()}
    results.write_predictions(folder.path / "predictions.npz", predictions)
    result: Result = {
        "mode": "train",
        "config": config.name,
        "dataset": config.dataset.name,
        "split": "test",
        **results.scores(predictions["test"], class_names),
        "seed": config.train.seed,
        "epochs": config.train.epochs,
        "run_folder": str(folder.path),
        "checkpoint": str(trainer.checkpoints.path(trainer.step)),
        **results.training_times(folder.rows()),
        "best": folder.best(),
    }
    folder.write_json("result.json", result)
    log.info(results.line(result))
    log.info("checkpoint %s", result["checkpoint"])
    return result


def evaluate(request: cli.Request) -> Result:
    """Evaluate a checkpoint on a split; nothing is written but what --predictions names."""
    _check_torch()
    from agmax import build, parallel, resume, run
    from agmax.reports import results

    run.log_to([])
    if request.predictions:
        results.probe(Path(request.predictions))
    resolved, saved = resume.evaluation_start(
        request, lambda config: build.counted(config, lambda: build.split(config, request.split))
    )
    for note in (*request.remarks, *resolved.notes):
        run.log.info("note: %s", note)
    device = parallel.choose_device(resolved.config.train.device)
    data = build.split(resolved.config, request.split)
    config = build.counted(resolved.config, lambda: data)
    classifier = build.model(config, with_pretrained=saved is None)
    if saved is not None:
        _load_weights(classifier, saved, config)
        _check_data(saved, config, data.class_names, None)
    evaluator = build.evaluator(config, classifier.to(device), data, device)
    started = time.perf_counter()
    predictions = evaluator.latest()
    seconds = time.perf_counter() - started
    if request.predictions:
        results.write_predictions(Path(request.predictions), {request.split: predictions})
    result: Result = {
        "mode": "eval",
        "config": config.name,
        "dataset": config.dataset.name,
        "split": request.split,
        **results.scores(predictions, data.class_names),
        "seed": config.train.seed,
        "epochs": config.train.epochs,
        "run_folder": saved.run_folder if saved else None,
        "checkpoint": str(saved.path) if saved else None,
        "images_per_second": len(predictions.labels) / seconds,
        "seconds": seconds,
    }
    run.log.info(results.line(result))
    return result


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

MODES: dict[str, Callable[[cli.Request], Result]] = {
    "train": train,
    "eval": evaluate,
    "print-config": print_config,
    "list": list_all,
    "summary": summary,
}
