"""One training, from its configuration to its result, in a run folder of its own."""

from contextlib import nullcontext
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from agmax import builders
from agmax.cli import parser
from agmax.config import resolve
from agmax.config.resolve import Resolved
from agmax.config.schema import Config
from agmax.core import devices
from agmax.core.errors import DataError, UsageError
from agmax.core.logs import log, log_to
from agmax.experiments import results, start
from agmax.experiments import saved as loading
from agmax.experiments.environment import environment
from agmax.experiments.run_folder import Run, probe
from agmax.experiments.saved import Saved
from agmax.reports import robustness
from agmax.training.loop import Trainer

Result = dict[str, Any]


def train_once(request: parser.Request) -> Result:
    """Train what was asked for, or continue it, and return its result."""
    log_to([])
    resolved, saved = start.training_start(request)
    device = devices.choose_device(resolved.config.train.device)
    builders.check_optimizer(resolved.config)
    probe(resolved.config.train.runs_dir)
    config = builders.counted(resolved.config, lambda: builders.split(resolved.config, "train"))
    resolved = resolved._replace(config=config)
    continued = start.run_to_continue(request, config)
    if continued is None:
        twin = start.unfinished_twin(config)
        if twin:
            log.info("note: %s has these settings and is not finished; --resume without value continues it", twin)
        return _train_in(None, request, resolved, saved, device)
    with continued.locked():
        result: Result | None = continued.read_json("result.json")
        if result is not None:
            log.info("%s is finished: %s top1 %.2f %%", continued.path, result["split"], result["top1"])
            return result
        return _train_in(continued, request, resolved, start.newest(continued), device)


def _train_in(
    continued: Run | None, request: parser.Request, resolved: Resolved, saved: Saved | None, device: torch.device
) -> Result:
    """Train in the run folder that is continued, or in a new one, from a checkpoint where there is one."""
    config = resolved.config
    data = builders.splits(config)
    class_names = data.train.class_names
    total_steps = config.train.epochs * builders.num_steps(config, len(data.train.labels))
    if saved is not None:
        check_data(saved, config, class_names, len(data.train.labels) if continued else None)
        if not continued and saved.state["step"] >= total_steps:
            why = f"{saved.path} is after step {saved.state['step']}, the training ends with step {total_steps}"
            raise UsageError("nothing left to train", where="--resume", why=why, remedy="Raise train.epochs")
    devices.choose_algorithms(deterministic=config.train.deterministic)
    devices.keep_freed_memory()
    if saved is None:
        classifier = builders.model(config)
    else:
        classifier = builders.restored(config, saved.state["model"], where=saved.path, saved=saved.config)
    source = builders.training_source(config, data.train, device)
    folder = continued or Run.create(config.train.runs_dir, config.name, start.stem(config))
    with nullcontext() if continued else folder.locked():
        if continued is None:
            folder.write_text("config.yaml", resolve.as_yaml(resolved))
        log_to([folder.path / "train.log"])
        first_step = saved.state["step"] if saved and continued else 0
        trainer = builders.trainer(
            config, data, source, classifier.to(device), device=device, folder=folder, first_step=first_step
        )
        _announce(
            request, resolved, trainer, folder, f"{loading.described(class_names)}, on {devices.described(device)}"
        )
        if saved is not None:
            _restore(trainer, saved, config, is_same_run=continued is not None)
        if continued is not None:
            folder.forget_after(trainer.step)
        _record_environment(folder, environment(**devices.machine(device, trainer.classifier.autocast)))
        with logging_redirect_tqdm([log]):  # lines stand above the bar
            trainer.fit()
        measured = builders.robustness(config, trainer.classifier, data.test, device) if data.test else {}
        for line in robustness.lines(measured):
            log.info(line)
        return _finish(config, trainer, folder, class_names, measured)


def check_data(saved: Saved, config: Config, class_names: tuple[str, ...], num_images: int | None) -> None:
    """Compare the classes with those that the weights know, and the images with those that a run began with.

    Raises:
        DataError: the same data set has other classes or, where `num_images` is given, another number of images.
    """
    loading.check_classes(config, class_names, known=saved.state["class_names"], dataset=saved.config.dataset.name)
    if num_images not in (None, saved.state["num_images"]):
        why = f"{num_images} images to train on, there were {saved.state['num_images']}"
        remedy = "Restore them, or start a new run from the weights: --resume with the path of a checkpoint"
        raise DataError(
            "the data set has changed since the run began", where=config.dataset.root, why=why, remedy=remedy
        )


def _announce(request: parser.Request, resolved: Resolved, trainer: Trainer, folder: Run, more: str) -> None:
    """Say what is about to happen: steps, sizes, classes, device, folder."""
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


def _restore(trainer: Trainer, saved: Saved, config: Config, *, is_same_run: bool) -> None:
    """Continue after the checkpoint's step, saying what is different from then.

    A new folder begins with a checkpoint of its own: were it killed at once, it would still know where it came from.
    """

    layouts = {
        (optimizer.name, optimizer.decay_bias_and_norm, optimizer.backbone_lr_factor != 1)
        for optimizer in (saved.config.optimizer, config.optimizer)
    }
    has_same_optimizer = len(layouts) == 1
    has_optimizer = saved.state["optimizer"] is not None
    trainer.restore(saved.state, with_optimizer=has_same_optimizer and has_optimizer, with_sums=is_same_run)
    if has_optimizer:
        log.info("continuing after step %d of %d, from %s", trainer.step, trainer.total_steps, saved.path)
    else:
        epoch = saved.state["epoch_of_agmax"]
        after = "" if epoch is None else f" after its epoch {epoch}"
        log.info("starting from the weights of the AgMax program%s in %s", after, saved.path)
        log.info("not taken over: its optimizer, its schedule and its epoch; this training begins with step 0")
    for difference in resolve.differences(saved.config, config, ignore=start.NOT_THE_RESULT):
        log.info("changed %s", difference)
    if has_optimizer and not has_same_optimizer:
        log.info("the optimizer starts anew")
    if not is_same_run:
        trainer.save()


def _record_environment(folder: Run, environment: Result) -> None:
    """Write environment.json; where a run goes on elsewhere, say what its bits may depend on."""

    before: Result = folder.read_json("environment.json") or environment
    for key in ("torch", *devices.BITS_DEPEND_ON):
        if before.get(key) != environment[key]:
            log.warning("warning: not bit-exact: %s was %s, is %s", key, before.get(key), environment[key])
    codes = dict.fromkeys([*before["code"].split("+"), environment["code"]] if "code" in before else [])
    folder.write_json("environment.json", environment | {"code": "+".join(codes) or environment["code"]})


def _finish(
    config: Config, trainer: Trainer, folder: Run, class_names: tuple[str, ...], measured: dict[str, Any]
) -> Result:
    """Write the predictions and the result of a training that has reached its last epoch."""

    split = "test" if "test" in trainer.evaluators else "validation"
    predictions = {name: evaluator.latest() for name, evaluator in trainer.evaluators.items()}
    results.write_predictions(folder.path / "predictions.npz", predictions)
    result: Result = {
        "mode": "train",
        "config": config.name,
        "dataset": config.dataset.name,
        "split": split,
        **results.scores(predictions[split], class_names),
        "seed": config.train.seed,
        "epochs": config.train.epochs,
        "steps": trainer.total_steps,
        "num_training_images": len(trainer.data),
        "image_passes": config.train.epochs * len(trainer.data) * config.objective.num_views,
        "run_folder": str(folder.path),
        "checkpoint": str(trainer.checkpoints.path(trainer.step)),
        **measured,
        **results.training_times(folder.rows()),
        "best": folder.best(),
    }
    folder.write_json("result.json", result)
    log.info(results.line(result))
    log.info("checkpoint %s", result["checkpoint"])
    return result
