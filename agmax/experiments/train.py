"""One training, from its start to its result, in a run folder of its own."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from agmax import builders
from agmax.builders import Splits
from agmax.config import resolve
from agmax.config.schema import Config
from agmax.core import devices
from agmax.core.errors import CheckpointError, UsageError
from agmax.core.logs import log, to_file
from agmax.core.storage import atomic_file
from agmax.experiments import results
from agmax.experiments.environment import environment
from agmax.experiments.evaluate import measure
from agmax.experiments.results import Result
from agmax.experiments.run_folder import RunFolder
from agmax.experiments.saved import Saved, check_data, describe_classes
from agmax.experiments.start import Start, differences, stem
from agmax.training.checkpoint_folder import CheckpointFolder
from agmax.training.loop import Trainer
from agmax.training.tensorboard import Board


def train(start: Start, *, remarks: Sequence[str] = ()) -> Result:
    """Train from a start to the last epoch; a run that is finished gives its result again.

    `remarks` are said in the first lines, before what resolving has noted.

    Raises:
        DataError: the images are not there, too few, or not those that the run began with.
        CheckpointError: the weights are of another network.
        OutputError: the run folder cannot be written.
        DivergedError: a loss or a weight is no finite number.
        ResourceError: there is no such device, or its memory is full.
    """
    if start.run is not None and (finished := start.run.read_json("result.json")) is not None:
        try:
            result = Result.from_dict(finished)
        except (TypeError, ValueError) as error:
            remedy = "Restore it, or remove it: the run then ends anew from its last checkpoint"
            raise CheckpointError(
                "result not whole", where=start.run.path / "result.json", why=str(error), remedy=remedy
            ) from error
        log.info("%s is finished: %s top1 %.2f %%", start.run.path, result.split, result.top1)
        return result
    config, saved = start.resolved.config, start.checkpoint
    device = devices.choose_device(config.train.device)
    data = builders.splits(config)
    num_images = len(data.train.labels)
    total_steps = config.train.epochs * builders.num_steps(config, num_images)
    if saved is not None:
        check_data(saved, config, data.train.class_names, num_images if start.run else None)
        if start.run is None and saved.state["step"] >= total_steps:
            why = f"{saved.path} is after step {saved.state['step']}, the training ends with step {total_steps}"
            raise UsageError("nothing left to train", where="--resume", why=why, remedy="Raise train.epochs")
    devices.choose_algorithms(deterministic=config.train.deterministic)
    devices.keep_freed_memory()
    if saved is None:
        classifier = builders.model(config)
    else:
        classifier = builders.restore_model(config, saved.state["model"], where=saved.path, saved=saved.config)
    source = builders.training_loader(config, data.train, device)
    folder = start.run or RunFolder.create(config.train.runs_dir, config.name, stem(config))
    with nullcontext() if start.run else folder.lock():
        if start.run is None:
            folder.write_text("config.yaml", resolve.as_yaml(start.resolved))
        checkpoints = CheckpointFolder(folder.checkpoints)
        checkpoints.sweep()
        first_step = saved.state["step"] if saved and start.run else 0
        trainer = builders.trainer(
            config,
            data,
            source,
            classifier.to(device),
            device=device,
            metrics_log=folder,
            checkpoints=checkpoints,
            report=Board(folder.path / "tensorboard", first_step=first_step),
        )
        with to_file(folder.path / "train.log"):
            about = f"{describe_classes(data.train.class_names)}, on {devices.device_name(device)}"
            _announce([*remarks, *start.resolved.notes], config, trainer, folder, about)
            if saved is not None:
                _restore(trainer, saved, config, is_same_run=start.run is not None)
            if start.run is not None:
                folder.drop_rows_after(trainer.step)
            _record_environment(folder, environment(**devices.machine(device, trainer.classifier.autocast)))
            with logging_redirect_tqdm([log]):  # lines stand above the bar
                trainer.fit()
            return _finish(config, trainer, folder, data)


def _announce(notes: Sequence[str], config: Config, trainer: Trainer, folder: RunFolder, about: str) -> None:
    """Say what is about to happen: steps, sizes, classes, device, folder."""
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
        log.info("continuing after step %d of %d, from %s", trainer.step, trainer.plan.total_steps, saved.path)
    else:
        epoch = saved.state["epoch_of_agmax"]
        after = "" if epoch is None else f" after its epoch {epoch}"
        log.info("starting from the weights of the AgMax program%s in %s", after, saved.path)
        log.info("not taken over: its optimizer, its schedule and its epoch; this training begins with step 0")
    for difference in differences(saved.config, config):
        log.info("changed %s", difference)
    if has_optimizer and not has_same_optimizer:
        log.info("the optimizer starts anew")
    if not is_same_run:
        trainer.save()


def _record_environment(folder: RunFolder, environment: dict[str, Any]) -> None:
    """Write environment.json; where a run goes on elsewhere, say what its bits may depend on."""
    before: dict[str, Any] = folder.read_json("environment.json") or environment
    for key in ("torch", *devices.BIT_EXACT_KEYS):
        if before.get(key) != environment[key]:
            log.warning("warning: not bit-exact: %s was %s, is %s", key, before.get(key), environment[key])
    codes = dict.fromkeys([*before["code"].split("+"), environment["code"]] if "code" in before else [])
    folder.write_json("environment.json", environment | {"code": "+".join(codes) or environment["code"]})


def _finish(config: Config, trainer: Trainer, folder: RunFolder, data: Splits) -> Result:
    """Write the predictions and the result of a training that has reached its last epoch."""
    split, measured = ("test", data.test) if data.test is not None else ("validation", data.validation)
    assert measured is not None
    predictions = {name: evaluator.latest() for name, evaluator in trainer.evaluators.items()}
    with atomic_file(folder.path / "predictions.npz") as file:
        results.write_predictions(file, predictions)
    found = measure(
        config,
        trainer.classifier,
        measured,
        trainer.make_step.device,
        split=split,
        checkpoint=trainer.records.checkpoints.path(trainer.step),
        predictions=predictions[split],
        with_robustness=split == "test",
    ).metrics
    result = Result(
        **vars(found)
        | results.training_times(folder.rows())
        | {
            "run_folder": str(folder.path),
            "steps": trainer.plan.total_steps,
            "num_training_images": len(trainer.data),
            "samples_seen": config.train.epochs * len(trainer.data) * config.objective.num_views,
            "best": folder.best(),
        }
    )
    folder.write_json("result.json", result.to_dict())
    for line in results.format_lines(result):
        log.info(line)
    log.info("checkpoint %s", result.checkpoint)
    return result
