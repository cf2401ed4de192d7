"""Find the start of a training or an evaluation: its weights and, for --resume, the run folder to continue."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from agmax import builders
from agmax.config import resolve
from agmax.config.resolve import ConfigRequest, LayeredConfig, Resolved, Setting
from agmax.config.schema import Config
from agmax.core import devices, storage
from agmax.core.errors import BusyError, CheckpointError, UsageError
from agmax.core.logs import log
from agmax.experiments.run_folder import RunFolder, find_runs
from agmax.experiments.saved import Checkpoint, load, locate, newest, newest_of_run
from agmax.training.checkpoint_folder import CheckpointFolder

AUTO = "auto"
"""The value of --resume that continues the newest run of the configuration or, without one, starts it."""

IRRELEVANT_SETTINGS = (
    "name",
    "dataset.on_bad_image",
    "train.device",
    "train.fallback_dir",
    "train.keep_every_epochs",
    "train.log_every_steps",
    "train.num_workers",
    "train.runs_dir",
    "train.save_every_minutes",
    "train.save_every_steps",
    "train.time_limit",
)
"""Settings that do not change what a training computes."""

EVALUATION_SETTINGS = (
    "evaluation.batch_size",
    "evaluation.every_epochs",
    "evaluation.occlusion",
    "evaluation.offsets",
    "evaluation.robustness_limit",
)
"""Settings that change what is measured but not what is trained: a run is continued whatever they are."""

NOT_TRAINING_SETTINGS = (*IRRELEVANT_SETTINGS, *EVALUATION_SETTINGS, "dataset.root")
"""Settings that may change when a run is continued; its checkpoints tell whether the images are the same."""

INPUT_SETTINGS = ("image_size", "test_image_size", "mean", "std", "statistics", "agmax_mean", "agmax_std")
"""Settings of the data set that belong to the weights: the size and normalization of their images."""


class Start(NamedTuple):
    """The start of a training or an evaluation."""

    resolved: Resolved
    checkpoint: Checkpoint | None  # None: initial weights
    run: RunFolder | None = None  # the locked folder of the run to continue; None: a new run


@contextmanager
def find_start(request: ConfigRequest, *, or_new: bool = False) -> Iterator[Start]:
    """Find the start of a training; the run folder to continue is locked until the context ends.

    The checkpoint is read once. With `or_new` or `--resume auto` a new run starts if there is none.

    Raises:
        UsageError: the configuration is wrong.
        CheckpointError: there is no such checkpoint or run, or no run of this configuration.
        BusyError: another process trains in the run folder.
        OutputError: the run folders cannot be written.
    """
    with ExitStack() as locks:
        is_auto = request.resume == AUTO
        if request.resume and not is_auto:
            start = _start_from(request, locks)
        else:
            resolved = _prepare(resolve.layer_config(request).resolve())
            start = Start(resolved, None)
            if request.resume is not None:
                remedy = "Leave --resume out to start a new run, or give --resume auto"
                run = _newest_run(resolved.config, remedy=remedy, or_none=or_new or is_auto)
                if run is not None:
                    locks.enter_context(run.lock())
                elif is_auto:
                    run = _lock_empty_run(resolved, locks)
                if run is not None:
                    start = Start(resolved, _checkpoint_to_continue(run, resolved.config), run)
        if start.run is None and (unfinished := find_unfinished(start.resolved.config)):
            log.info("note: %s has the same configuration and is not finished; --resume continues it", unfinished)
        yield start


def _start_from(request: ConfigRequest, locks: ExitStack) -> Start:
    """Return the start for `--resume X`: a run to continue, which is locked, or the weights for a new run."""
    assert request.resume
    resolve.check_keys(request)
    path = locate(request.resume, runs_dir(request))
    run = RunFolder(path) if (path / "config.yaml").is_file() else None
    checkpoint = load(path) if run is None else newest_of_run(run, _unresolved(request, "train.fallback_dir"))
    if checkpoint is None:  # the run was interrupted before its first checkpoint
        assert run is not None
        with_source = request._replace(source=request.source or str(run.path / "config.yaml"))
        resolved, old_config = _prepare(resolve.layer_config(with_source).resolve()), settings_of(run)
    else:
        resolved, old_config = _prepare(_resolve_for_training(checkpoint, request)), checkpoint.config
    if run is None or old_config is None or differences(old_config, resolved.config, ignore=NOT_TRAINING_SETTINGS):
        if run is not None:
            _check_files(run, checkpoint)
        return Start(resolved, checkpoint)  # a new run from these weights; nothing is written to the old folder
    locks.enter_context(run.lock())
    paths = CheckpointFolder(run.checkpoints).list_checkpoints()
    if paths and (checkpoint is None or paths[-1] != checkpoint.path):  # another process has trained in the meantime
        checkpoint = newest_of_run(run, resolved.config.train.fallback_dir)
    if not run.is_finished:
        _warn_of_damaged_result(run)
        _check_files(run, checkpoint)
    return Start(resolved, checkpoint, run)


def _checkpoint_to_continue(run: RunFolder, config: Config) -> Checkpoint | None:
    """Return the checkpoint of a locked run, None if the run is finished or has none yet."""
    if run.is_finished:
        return None
    _warn_of_damaged_result(run)
    checkpoint = newest_of_run(run, config.train.fallback_dir)
    _check_files(run, checkpoint)
    return checkpoint


def _warn_of_damaged_result(run: RunFolder) -> None:
    if run.has_damaged_result:
        log.warning("warning: %s is damaged, the run counts as unfinished", run.path / "result.json")


def _check_files(run: RunFolder, checkpoint: Checkpoint | None) -> None:
    """Check that a run with results of epochs has a checkpoint: else it would be trained again, over its own files.

    Raises:
        CheckpointError: it has none.
    """
    if run.has_epochs and checkpoint is None:
        why = "its epochs are in metrics.jsonl"
        if run.has_damaged_result:
            why = f"and {run.path / 'result.json'} is damaged"
        remedy = "Restore the checkpoints, or leave --resume out to start a new run"
        raise CheckpointError("no checkpoint left", where=run.checkpoints, why=why, remedy=remedy)


def _resolve_for_training(checkpoint: Checkpoint, request: ConfigRequest) -> Resolved:
    """Resolve a request for a training from a checkpoint, on the checkpoint's data set unless another is named.

    The seed of the data set stays the same: with another split, training images would become validation images.
    """
    old_config, layered = checkpoint.config, _layers_over(checkpoint, request)
    more = []
    if request.source is None and "train.time_limit" not in layered.typed:  # a limit of one job
        more.append(Setting("train.time_limit", None, "default"))
    if request.source is not None and not layered.names_data:
        more.append(Setting("dataset.name", old_config.dataset.name, str(checkpoint.path)))
    dataset_seed = layered.value("dataset.seed")
    seed = layered.value("train.seed") if dataset_seed is None else dataset_seed
    if seed != old_config.dataset_seed and "dataset.seed" not in layered.typed:
        more.append(Setting("dataset.seed", old_config.dataset_seed, str(checkpoint.path)))
    return layered.resolve(more)


def _layers_over(checkpoint: Checkpoint, request: ConfigRequest) -> LayeredConfig:
    """Return the layers of a request; without a configuration they lie on the checkpoint's settings."""
    if request.source is None:
        return resolve.layer_over(checkpoint.state["config"], str(checkpoint.path), request)
    return resolve.layer_config(request)


def _prepare(resolved: Resolved) -> Resolved:
    """Check device, optimizer and output folder before the data are read, then count the classes."""
    config = resolved.config
    devices.choose_device(config.train.device)
    builders.check_optimizer(config)
    for key, folder in (("runs_dir", config.train.runs_dir), ("fallback_dir", config.train.fallback_dir)):
        if folder is not None:
            what, remedy = "cannot write the output folder", f"Set train.{key} to a folder you can write"
            storage.check_writable(Path(folder).expanduser(), is_folder=True, what=what, remedy=remedy)
    return resolved._replace(config=builders.with_num_classes(config, lambda: builders.split(config, "train")))


def _newest_run(
    config: Config,
    *,
    remedy: str,
    or_none: bool = False,
    ignore: tuple[str, ...] = NOT_TRAINING_SETTINGS,
) -> RunFolder | None:
    """Return the newest run folder of the same training, or None with `or_none`.

    Raises:
        CheckpointError: there is none, without `or_none`; the message names the settings of the most similar run.
    """
    nearest: tuple[list[str], Path] | None = None
    for candidate in find_runs(config.train.runs_dir, config.name, stem(config)):
        run_config = settings_of(candidate)
        if run_config is None:
            continue
        changes = differences(run_config, config, ignore=ignore)
        if not changes:
            return candidate
        if nearest is None or len(changes) < len(nearest[0]):
            nearest = changes, candidate.path
    if or_none:
        return None
    pattern = Path(config.train.runs_dir) / config.name / f"{stem(config)}[-n]"
    why = "no run has this configuration"
    if nearest:
        why += f"; {nearest[1]} differs in {', '.join(nearest[0][:5])}"
    raise CheckpointError("nothing to resume", where=pattern, why=why, remedy=remedy)


def _lock_empty_run(resolved: Resolved, locks: ExitStack) -> RunFolder | None:
    """Lock a run folder of this name whose training was killed before its first file, None if there is none.

    Its settings are written at once: until then the folder may become that of any configuration.
    """
    for run in find_runs(resolved.config.train.runs_dir, resolved.config.name, stem(resolved.config)):
        if run.is_empty:
            with suppress(BusyError), ExitStack() as lock:
                lock.enter_context(run.lock())
                if run.is_empty:  # still
                    run.write_text("config.yaml", resolve.as_yaml(resolved))
                    locks.enter_context(lock.pop_all())
                    return run
    return None


def find_unfinished(config: Config) -> Path | None:
    """Return the newest unfinished run folder of the same configuration, None if there is none."""
    for run in find_runs(config.train.runs_dir, config.name, stem(config)):
        run_config = settings_of(run)
        if run_config is None or run.is_finished:
            continue
        if not differences(run_config, config, ignore=NOT_TRAINING_SETTINGS):
            return run.path
    return None


def settings_of(run: RunFolder) -> Config | None:
    """Return the settings of a run folder, those of its newest checkpoint if its config.yaml is damaged.

    None if it has no config.yaml, or the settings are not valid in this release.
    """
    path = run.path / "config.yaml"
    try:
        return resolve.resolve(str(path)).config
    except UsageError:
        with suppress(CheckpointError):
            checkpoint = newest(run.checkpoints) if path.is_file() else None
            return checkpoint.config if checkpoint else None
    return None


def differences(old: Config, new: Config, *, ignore: tuple[str, ...] = IRRELEVANT_SETTINGS) -> list[str]:
    """Return the differing settings that change the result of a training, as lines `key: old -> new`."""
    return resolve.differences(old, new, ignore=ignore)


def stem(config: Config) -> str:
    """Return the name of a configuration's run folders, without their number."""
    return f"{config.dataset.name}-s{config.train.seed}"


def runs_dir(request: ConfigRequest) -> str:
    """Return the typed train.runs_dir or its default; the other settings are not validated."""
    return _unresolved(request, "train.runs_dir") or "runs"


def _unresolved(request: ConfigRequest, key: str) -> str | None:
    """Return the text of a setting as it is typed or in the configuration, None if it is in neither."""
    if request.source is not None:
        value = resolve.layer_config(request).value(key)
    else:
        value = next((setting.value for setting in reversed(request.settings) if setting.key == key), None)
    return None if value is None else str(value)


# --- for evaluations ---------------------------------------------------------------------------------------------


def find_weights(request: ConfigRequest, *, split: str = "train") -> Start:
    """Find the weights to evaluate, and resolve the request on top of the settings saved with them.

    For `--resume` without a value, `split` is read if the classes must be counted.

    Raises:
        UsageError: there are no weights to evaluate.
        CheckpointError: the checkpoint is missing or damaged.
    """
    if request.resume is None:
        resolved = resolve.layer_config(request).resolve()
        if resolved.config.model.pretrained:
            return Start(resolved, None)
        raise UsageError("nothing to evaluate", remedy="Give --checkpoint FILE, or model.pretrained=true")
    if request.resume:
        resolve.check_keys(request)
        checkpoint = load(locate(request.resume, runs_dir(request)))
    else:
        config = resolve.layer_config(request).resolve().config
        config = builders.with_num_classes(config, lambda: builders.split(config, split))
        ignore = (*NOT_TRAINING_SETTINGS, "evaluation.")
        run = _newest_run(config, remedy="Give --resume RUN or CHECKPOINT", ignore=ignore)
        assert run is not None
        newest_checkpoint = newest_of_run(run, config.train.fallback_dir)
        if newest_checkpoint is None:
            remedy = "Continue the training with --train --resume"
            raise CheckpointError("no checkpoint yet", where=run.checkpoints, remedy=remedy)
        checkpoint = newest_checkpoint
    return Start(_resolve_for_evaluation(checkpoint, request), checkpoint)


def _resolve_for_evaluation(checkpoint: Checkpoint, request: ConfigRequest) -> Resolved:
    """Resolve a request for an evaluation of a checkpoint.

    Without --config the typed settings lie on the saved ones. With --config the saved settings still win over it, but
    not over typed settings, for: the data set, unless another is named; size and normalization of the images; and,
    if the network is the same, its channels and the objective.
    """
    old_config, mapping, layered = checkpoint.config, checkpoint.state["config"], _layers_over(checkpoint, request)
    if checkpoint.state.get("is_dataset_guessed") and layered.names_data:
        return _resolve_agmax_file(layered, checkpoint, request)
    is_same_data = not layered.names_data or layered.value("dataset.name") == old_config.dataset.name
    keys = tuple(mapping["dataset"]) if is_same_data else INPUT_SETTINGS
    if not is_same_data and layered.value("dataset.channels") != old_config.dataset.channels:
        keys = ()
    values = {f"dataset.{key}": mapping["dataset"][key] for key in keys}
    if is_same_data:
        values |= {"dataset.seed": old_config.dataset_seed, "dataset.name": old_config.dataset.name}
    network = layered.value("model.backbone"), layered.section("model.arguments")
    if network == (old_config.model.backbone, old_config.model.arguments):
        values |= {"model.channels": old_config.input_channels}
        values |= {f"objective.{key}": value for key, value in mapping["objective"].items()}
    values |= {"train.seed": old_config.train.seed, "train.epochs": old_config.train.epochs}
    more = [Setting(key, value, str(checkpoint.path)) for key, value in values.items() if key not in layered.typed]
    return layered.resolve(more)


def _resolve_agmax_file(layered: LayeredConfig, checkpoint: Checkpoint, request: ConfigRequest) -> Resolved:
    """Resolve an evaluation of a file of the AgMax program, which does not name its data set, on the typed data set.

    Images have the size of the data set, and the normalization constants of the AgMax program if it has any for it.
    """
    mapping = checkpoint.state["config"]
    values: dict[str, Any] = {f"objective.{key}": value for key, value in mapping["objective"].items()}
    values["dataset.num_classes"] = checkpoint.config.dataset.num_classes
    if layered.value("dataset.agmax_mean") is not None:
        values["dataset.statistics"] = "agmax"
    if request.source is None:
        values |= {f"model.{key}": mapping["model"][key] for key in ("backbone", "arguments", "channels")}
    more = [Setting(key, value, str(checkpoint.path)) for key, value in values.items() if key not in layered.typed]
    return resolve.layer_config(request._replace(source=request.source or checkpoint.config.name)).resolve(more)
