"""Run one training from its start to its result, in its own run folder."""

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from agmax import builders
from agmax.builders import Splits
from agmax.checkpoints.write import copy_checkpoint
from agmax.config import resolve
from agmax.config.reader import parse_yaml, read_yaml
from agmax.config.schema import Config
from agmax.core import devices
from agmax.core.errors import AgmaxError, BusyError, OutputError, UsageError
from agmax.core.logs import log, to_file
from agmax.core.signals import Stopped
from agmax.core.storage import append, atomic_file
from agmax.experiments import results
from agmax.experiments.environment import continue_command, environment
from agmax.experiments.evaluate import measure
from agmax.experiments.results import Result
from agmax.experiments.run_folder import RunFolder, run_folder_of
from agmax.experiments.saved import Checkpoint, check_data, check_images, describe_classes
from agmax.experiments.start import Start, differences, stem
from agmax.training.checkpoint_folder import CheckpointFolder
from agmax.training.loop import Trainer
from agmax.training.tensorboard import Board

VERSIONS = ("python", "torch", "torchvision", "timm", "numpy")
"""Keys of the environment that a resumed training should share with the training before."""


def train(start: Start, *, remarks: Sequence[str] = (), began: float | None = None) -> Result:
    """Train from a start to the last epoch; for a finished run, return its result.

    `remarks` are logged in the first lines, before the notes of the configuration. train.time_limit counts from
    `began`, a time of `time.perf_counter`, or from the first step.

    Raises:
        DataError: the images are missing, too few, or not those of the start of the run.
        CheckpointError: the weights belong to another network.
        OutputError: the run folder cannot be written.
        DivergedError: a loss or a weight is not finite.
        ResourceError: there is no such device, or its memory is full.
        Stopped: a stop signal arrived, or the time limit is over; the state of the training is saved.
    """
    if start.run is not None and (result := start.run.result()) is not None:
        return _check_finished(result, start.run, start.resolved.config)
    with ExitStack() as stack:
        if start.run is not None:
            stack.enter_context(_record_end(start.run))
        return _train(start, stack, remarks=remarks, began=began)


def _train(start: Start, stack: ExitStack, *, remarks: Sequence[str], began: float | None) -> Result:
    """Train; a new run folder is locked, and its end recorded, when `stack` ends."""
    config, checkpoint = start.resolved.config, start.checkpoint
    device = devices.choose_device(config.train.device)
    data = builders.splits(config)
    total_steps = config.train.epochs * builders.num_steps(config, len(data.train.labels))
    description = builders.description(config, data.train)
    if checkpoint is not None:
        step = checkpoint.state["step"]
        check_data(checkpoint, config, data.train.class_names)
        if start.run is not None:
            check_images(checkpoint, config, description)
        if start.run is None and step >= total_steps:
            why = f"{checkpoint.path} is after step {step}, the training ends with step {total_steps}"
            raise UsageError("nothing left to train", where="--resume", why=why, remedy="Raise train.epochs")
    devices.choose_algorithms(deterministic=config.train.deterministic)
    devices.keep_freed_memory()
    if checkpoint is None:
        classifier = builders.model(config)
    else:
        weights, path = checkpoint.state["model"], checkpoint.path
        classifier = builders.restore_model(config, weights, where=path, saved=checkpoint.config)
    loader = builders.training_loader(config, data.train, device)
    folder = start.run or _create(config, stack)
    settings = resolve.as_yaml(start.resolved)
    if not _has_settings(folder.path / "config.yaml", settings):
        folder.write_text("config.yaml", settings)
    steps_per_epoch, keep_every_epochs = total_steps // config.train.epochs, config.train.keep_every_epochs
    checkpoints = CheckpointFolder(
        folder.checkpoints,
        keep_every_steps=keep_every_epochs and keep_every_epochs * steps_per_epoch,
        fallback=folder.fallback(config.train.fallback_dir),
    )
    first_step = checkpoint.state["step"] if checkpoint and start.run else 0
    trainer = builders.trainer(
        config,
        data,
        loader,
        classifier.to(device),
        device=device,
        metrics_log=folder,
        checkpoints=checkpoints,
        report=Board(folder.path / "tensorboard", first_step=first_step),
        description=description,
    )
    about = f"{describe_classes(data.train.class_names)}, on {devices.device_name(device)}"
    _log_start([*remarks, *start.resolved.notes], config, trainer, folder, about)
    checkpoints.set_aside_after(first_step)
    checkpoints.check_space(trainer.checkpoint_bytes)
    if checkpoint is not None:
        _restore(trainer, checkpoint, config, is_same_run=start.run is not None)
        if start.run is None:
            _copy_history(checkpoint, folder, config)
    if start.run is not None:
        folder.drop_rows_after(trainer.step)
    _record_environment(folder, environment(**devices.machine(device, trainer.classifier.autocast)))
    with logging_redirect_tqdm([log]):  # prints log lines above the progress bar
        trainer.fit(began=began)
    return _finish(config, trainer, folder, data)


def _has_settings(path: Path, settings: str) -> bool:
    """Return whether a configuration has the values of `settings`; it has not if it is damaged."""
    try:
        return bool(read_yaml(path).mapping == parse_yaml(settings, str(path)).mapping)
    except UsageError:
        return False


def _check_finished(result: Result, run: RunFolder, config: Config) -> Result:
    """Return the result of a finished run.

    Raises:
        UsageError: a measurement is asked for that the result does not have.
    """
    wanted = {"occlusion": config.evaluation.occlusion, "offsets": config.evaluation.offsets}
    missing = [name for name, is_wanted in wanted.items() if is_wanted and name not in result.robustness]
    if missing and result.split == "test":
        flags = " ".join(f"--{name}" for name in missing)
        remedy = f"Measure it with --eval --resume {run.path} {flags}"
        raise UsageError("the run is finished", where=run.path, why=f"without {', '.join(missing)}", remedy=remedy)
    log.info("%s is finished: %s", run.path, results.format_lines(result)[0])
    return result


def _create(config: Config, stack: ExitStack) -> RunFolder:
    """Create a run folder, locked and with its end recorded until `stack` ends."""
    while True:
        folder = RunFolder.create(config.train.runs_dir, config.name, stem(config))
        with suppress(BusyError):  # another process continues the empty folder already
            stack.enter_context(folder.lock())
            stack.enter_context(_record_end(folder))
            return folder


@contextmanager
def _record_end(folder: RunFolder) -> Iterator[None]:
    """Write train.log, and state.json: running, then finished, stopped or failed, and why; the log has the reason too.

    Raises:
        Stopped: as in the block, with the command that continues the training.
    """
    process = {"process": os.getpid(), "host": platform.node()}
    folder.record_state({"state": "running", **process})
    try:
        with to_file(folder.path / "train.log"):
            yield
    except BaseException as error:
        state = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        reason = str(error) if isinstance(error, AgmaxError | Stopped) else f"{type(error).__name__}: {error}"
        code = getattr(error, "exit_code", 130 if state == "stopped" else 1)
        with suppress(OSError, OutputError):  # the first error counts
            folder.record_state({"state": state, "reason": reason, "exit_code": code, **process})
            append(folder.path / "train.log", f"{reason} (exit code {code})\n")
        if isinstance(error, Stopped):
            text = f"{reason}. Continue with {continue_command(folder.path)}"
            raise Stopped(error.signal_number, text) from error
        raise
    folder.record_state({"state": "finished", "exit_code": 0, **process})


def _log_start(notes: Sequence[str], config: Config, trainer: Trainer, folder: RunFolder, about: str) -> None:
    """Log the size of the training, the notes and the run folder."""
    log.info(
        "%s on %s: %d epochs of %d steps with %d images, checkpoints of %.1f MiB (three at most), %s",
        config.name,
        config.dataset.name,
        trainer.plan.epochs,
        trainer.plan.steps_per_epoch,
        len(trainer.data),
        trainer.checkpoint_bytes / 2**20,
        about,
    )
    for note in notes:
        log.info("note: %s", note)
    log.info("run folder %s", folder.path)


def _restore(trainer: Trainer, checkpoint: Checkpoint, config: Config, *, is_same_run: bool) -> None:
    """Continue after the checkpoint's step, and log the settings that have changed.

    A checkpoint from elsewhere is saved at once in the run folder, so that the run can be resumed even if it is killed
    before its first step.
    """
    layouts = {
        (optimizer.name, optimizer.decay_bias_and_norm, optimizer.backbone_lr_factor != 1)
        for optimizer in (checkpoint.config.optimizer, config.optimizer)
    }
    is_same_optimizer = len(layouts) == 1
    has_optimizer = checkpoint.state["optimizer"] is not None
    trainer.restore(checkpoint.state, with_optimizer=is_same_optimizer and has_optimizer, with_sums=is_same_run)
    if has_optimizer:
        log.info("continuing after step %d of %d, from %s", trainer.step, trainer.plan.total_steps, checkpoint.path)
    else:
        epoch = checkpoint.state["epoch_of_agmax"]
        after = "" if epoch is None else f" after its epoch {epoch}"
        log.info("starting from the weights of the AgMax program%s in %s", after, checkpoint.path)
        log.info("optimizer, schedule and epoch of that program are not used; this training starts at step 0")
    for difference in differences(checkpoint.config, config):
        log.info("changed %s", difference)
    if has_optimizer and not is_same_optimizer:
        log.info("the state of the optimizer is reset")
    if checkpoint.path != trainer.store.checkpoints.path(trainer.step):
        trainer.save()


def _copy_history(checkpoint: Checkpoint, folder: RunFolder, config: Config) -> None:
    """Copy rows and best checkpoint of the run that is prolonged, so that the best epoch is that of both trainings.

    Nothing is copied if the checkpoint is not in a run folder, or data set or batch size differ.
    """
    old, old_folder = checkpoint.config, run_folder_of(checkpoint.path)
    if old_folder is None or (old.dataset, old.train.batch_size) != (config.dataset, config.train.batch_size):
        return
    previous = RunFolder(Path(old_folder))
    rows = [row for row in previous.rows() if row["step"] <= checkpoint.state["step"]]
    best = CheckpointFolder(previous.checkpoints).best
    folder.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    if folder.best() is None:
        return
    if best.is_file() and folder.best() == previous.best():
        copy_checkpoint(best, CheckpointFolder(folder.checkpoints).best)
    else:  # the best of these rows is not kept: it must not count
        folder.write_text("metrics.jsonl", "")


def _record_environment(folder: RunFolder, environment: dict[str, Any]) -> None:
    """Write environment.json; for a continued run, warn about changes that change the bits of its results."""
    old = folder.read_json("environment.json") or environment
    if old is environment and (folder.path / "environment.json").exists():
        log.warning("warning: environment.json is damaged, and is written again")
    for key in (*VERSIONS, *devices.BIT_EXACT_KEYS):
        if old.get(key) != environment[key]:
            log.warning("warning: not bit-exact: %s was %s, is %s", key, old.get(key), environment[key])
    code = old.get("code")
    codes = dict.fromkeys([*code.split("+"), environment["code"]] if isinstance(code, str) else [])
    folder.write_json("environment.json", environment | {"code": "+".join(codes) or environment["code"]})


def _finish(config: Config, trainer: Trainer, folder: RunFolder, data: Splits) -> Result:
    """Write the predictions and the result of a training after its last epoch."""
    split, evaluated = ("test", data.test) if data.test is not None else ("validation", data.validation)
    assert evaluated is not None
    predictions = {name: evaluator.latest() for name, evaluator in trainer.evaluators.items()}
    with atomic_file(folder.path / "predictions.npz") as file:
        results.write_predictions(file, predictions)
    final_metrics = measure(
        config,
        trainer.classifier,
        evaluated,
        trainer.make_step.device,
        split=split,
        checkpoint=trainer.store.checkpoints.path(trainer.step),
        predictions=predictions[split],
        with_robustness=split == "test",
    ).metrics
    best = folder.best()
    assert best is not None, "the last epoch is always evaluated"
    result = Result(
        **vars(final_metrics)
        | results.training_times(folder.rows())
        | {
            "run_folder": str(folder.path),
            "steps": trainer.plan.total_steps,
            "num_training_images": len(trainer.data),
            "samples_seen": config.train.epochs * len(trainer.data) * config.objective.num_views,
            "best": best,
        }
    )
    folder.write_json("result.json", result.to_dict())
    for line in results.format_lines(result):
        log.info(line)
    log.info("checkpoint %s", result.checkpoint)
    return result
