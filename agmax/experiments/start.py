"""What --resume names: the weights to start from, and the run folder to continue in."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from agmax import builders
from agmax.config import resolve
from agmax.config.resolve import ConfigRequest, LayeredConfig, Resolved, Setting
from agmax.config.schema import Config
from agmax.core import devices
from agmax.core.errors import CheckpointError, UsageError
from agmax.core.logs import log
from agmax.experiments.run_folder import RunFolder, check_runs_dir, find_runs
from agmax.experiments.saved import Saved, load, locate, newest
from agmax.training.checkpoint_folder import CheckpointFolder

IRRELEVANT_SETTINGS = (
    "name",
    "dataset.on_bad_image",
    "train.device",
    "train.log_every_steps",
    "train.num_workers",
    "train.runs_dir",
    "train.save_every_steps",
)
"""Settings that do not change what a training computes."""

INPUT_SETTINGS = ("image_size", "test_image_size", "mean", "std", "statistics", "agmax_mean", "agmax_std")
"""Settings of the data set that belong to the weights: they tell what images must be like."""


class Start(NamedTuple):
    """Where a training or an evaluation begins."""

    resolved: Resolved
    checkpoint: Saved | None  # None: fresh weights
    run: RunFolder | None = None  # the folder to continue in, locked; None: a new one


@contextmanager
def find_start(request: ConfigRequest, *, or_new: bool = False) -> Iterator[Start]:
    """Find where a training begins; the folder that it continues in is locked until it ends.

    The checkpoint is located, read and resolved with once. `or_new` starts a new run where `--resume` without a value
    finds none.

    Raises:
        UsageError: the configuration is wrong.
        CheckpointError: there is nothing of this name to resume, or no run is equal.
        BusyError: another program trains in the folder to continue in.
        OutputError: the run folders cannot be written.
    """
    with ExitStack() as held:
        if request.resume:
            start = _start_from(request, held)
        else:
            resolved = _prepare(resolve.layer_config(request).resolve())
            start = Start(resolved, None)
            if request.resume == "":
                run = _newest_run(resolved.config, remedy="Leave --resume out to start a new run", or_none=or_new)
                if run is not None:
                    held.enter_context(run.lock())
                    start = Start(resolved, None if run.is_finished else newest(run.checkpoints), run)
        if start.run is None and (twin := find_unfinished(start.resolved.config)):
            log.info("note: %s has these settings and is not finished; --resume without value continues it", twin)
        yield start


def _start_from(request: ConfigRequest, held: ExitStack) -> Start:
    """Return the start that `--resume X` names: a run to continue in, which is locked, or weights for a new one."""
    assert request.resume
    resolve.check_keys(request)
    place = locate(request.resume, runs_dir(request))
    run = RunFolder(place) if (place / "config.yaml").is_file() else None
    saved = newest(run.checkpoints) if run is not None else load(place)
    if saved is None:  # interrupted before its first checkpoint
        assert run is not None
        resolved = _prepare(
            resolve.layer_config(request._replace(source=request.source or str(run.path / "config.yaml"))).resolve()
        )
        before = settings_of(run)
    else:
        resolved, before = _prepare(_resolve_on_saved_data(saved, request)), saved.config
    if run is None or before is None or differences(before, resolved.config):
        return Start(resolved, saved)  # its weights alone are taken; nothing is written there
    held.enter_context(run.lock())
    saved_now = CheckpointFolder(run.checkpoints).list_checkpoints()
    if saved_now and (saved is None or saved_now[-1] != saved.path):  # another program has trained on meanwhile
        saved = newest(run.checkpoints)
    return Start(resolved, saved, run)


def _resolve_on_saved_data(saved: Saved, request: ConfigRequest) -> Resolved:
    """Resolve what was typed for a training from a checkpoint, on the data of the checkpoint unless others are named.

    With another split of the same data, images trained on would be validated on.
    """
    before, laid = saved.config, _layers_over(saved, request)
    more = []
    if request.source is not None and not laid.names_data:
        more.append(Setting("dataset.name", before.dataset.name, str(saved.path)))
    seed = laid.value("dataset.seed")
    own_seed = laid.value("train.seed") if seed is None else seed
    if own_seed != before.dataset_seed and "dataset.seed" not in laid.typed:
        more.append(Setting("dataset.seed", before.dataset_seed, str(saved.path)))
    return laid.resolve(more)


def _layers_over(saved: Saved, request: ConfigRequest) -> LayeredConfig:
    """Lay what was typed over the configuration that was typed or, where none was, over the checkpoint's settings."""
    return (
        resolve.layer_over(saved.state["config"], str(saved.path), request)
        if request.source is None
        else resolve.layer_config(request)
    )


def _prepare(resolved: Resolved) -> Resolved:
    """Find out before the data are looked at whether a training can run here, then count the classes."""
    config = resolved.config
    devices.choose_device(config.train.device)
    builders.check_optimizer(config)
    check_runs_dir(config.train.runs_dir)
    return resolved._replace(config=builders.with_num_classes(config, lambda: builders.split(config, "train")))


def _newest_run(
    config: Config, *, remedy: str, or_none: bool = False, ignore: tuple[str, ...] = IRRELEVANT_SETTINGS
) -> RunFolder | None:
    """Return the newest run folder of an equal configuration.

    Raises:
        CheckpointError: there is none, unless `or_none` says that there need not be.
    """
    nearest: tuple[list[str], Path] | None = None
    for candidate in find_runs(config.train.runs_dir, config.name, stem(config)):
        there = settings_of(candidate)
        if there is None:
            continue
        differing = differences(there, config, ignore=ignore)
        if not differing:
            return candidate
        if nearest is None or len(differing) < len(nearest[0]):
            nearest = differing, candidate.path
    if or_none:
        return None
    looked = Path(config.train.runs_dir) / config.name / f"{stem(config)}[-n]"
    why = "no run has this configuration"
    if nearest:
        why += f"; {nearest[1]} differs in {', '.join(nearest[0][:5])}"
    raise CheckpointError("nothing to resume", where=looked, why=why, remedy=remedy)


def find_unfinished(config: Config) -> Path | None:
    """Return the newest unfinished run folder of an equal configuration."""
    for run in find_runs(config.train.runs_dir, config.name, stem(config)):
        there = settings_of(run)
        if there is not None and not differences(there, config) and run.read_json("result.json") is None:
            return run.path
    return None


def settings_of(run: RunFolder) -> Config | None:
    """Return the settings of a run folder, None where it has none that can be read."""
    try:
        return resolve.resolve(str(run.path / "config.yaml")).config
    except UsageError:
        return None


def differences(old: Config, new: Config, *, ignore: tuple[str, ...] = IRRELEVANT_SETTINGS) -> list[str]:
    """Describe the settings that differ and change what a training computes."""
    return resolve.differences(old, new, ignore=ignore)


def stem(config: Config) -> str:
    """Return what the run folders of a configuration are called, before their number."""
    return f"{config.dataset.name}-s{config.train.seed}"


def runs_dir(request: ConfigRequest) -> str:
    """Return the folder of runs that was typed, or the default; nothing checks the other settings."""
    if request.source is not None:
        return str(resolve.layer_config(request).value("train.runs_dir"))
    typed = [str(setting.value) for setting in request.settings if setting.key == "train.runs_dir"]
    return typed[-1] if typed else "runs"


# --- for evaluations ---------------------------------------------------------------------------------------------


def find_weights(request: ConfigRequest, *, split: str = "train") -> Start:
    """Find what to evaluate: the settings saved with the weights, under what was typed.

    Where `--resume` has no value and a configuration leaves its number of classes to the data, `split` is looked at.

    Raises:
        UsageError: there is nothing to evaluate.
        CheckpointError: the checkpoint is not there, or not whole.
    """
    if request.resume is None:
        typed = resolve.layer_config(request).resolve()
        if typed.config.model.pretrained:
            return Start(typed, None)
        raise UsageError("nothing to evaluate", remedy="Give --resume CHECKPOINT, or model.pretrained=true")
    if request.resume:
        resolve.check_keys(request)
        saved = load(locate(request.resume, runs_dir(request)))
    else:
        config = resolve.layer_config(request).resolve().config
        counted = builders.with_num_classes(config, lambda: builders.split(config, split))
        ignore = (*IRRELEVANT_SETTINGS, "evaluation.")
        run = _newest_run(counted, remedy="Give --resume RUN or CHECKPOINT", ignore=ignore)
        assert run is not None
        found = newest(run.checkpoints)
        if found is None:
            raise CheckpointError("no checkpoint yet", where=run.checkpoints, remedy="Train on with --train --resume")
        saved = found
    return Start(_resolve_for_weights(saved, request), saved)


def _resolve_for_weights(saved: Saved, request: ConfigRequest) -> Resolved:
    """Resolve what was typed, for weights that were trained with what is saved.

    Without --config the saved settings stand below what was typed. With it the data set is still the saved one unless
    another is typed, images are sized and normalised as the weights have learnt them, and a network of the same name
    is the saved one in all that was not typed.
    """
    before, mapping, laid = saved.config, saved.state["config"], _layers_over(saved, request)
    if saved.state.get("is_dataset_guessed") and laid.names_data:
        return _resolve_agmax_file(laid, saved, request)
    is_same_data = not laid.names_data or laid.value("dataset.name") == before.dataset.name
    keys = tuple(mapping["dataset"]) if is_same_data else INPUT_SETTINGS
    if not is_same_data and laid.value("dataset.channels") != before.dataset.channels:
        keys = ()
    values = {f"dataset.{key}": mapping["dataset"][key] for key in keys}
    if is_same_data:
        values |= {"dataset.seed": before.dataset_seed, "dataset.name": before.dataset.name}
    network = laid.value("model.backbone"), laid.section("model.arguments")
    if network == (before.model.backbone, before.model.arguments):
        values |= {"model.channels": before.input_channels}
        values |= {f"objective.{key}": value for key, value in mapping["objective"].items()}
    values |= {"train.seed": before.train.seed, "train.epochs": before.train.epochs}
    return laid.resolve(
        [Setting(key, value, str(saved.path)) for key, value in values.items() if key not in laid.typed]
    )


def _resolve_agmax_file(laid: LayeredConfig, saved: Saved, request: ConfigRequest) -> Resolved:
    """Resolve an evaluation of a file of the AgMax program on a data set that was named: it knows none of its own.

    Images are sized as the data set asks, and normalised by that program's constants, where it has some.
    """
    values: dict[str, Any] = {f"objective.{key}": value for key, value in saved.state["config"]["objective"].items()}
    values["dataset.num_classes"] = saved.config.dataset.num_classes
    if laid.value("dataset.agmax_mean") is not None:
        values["dataset.statistics"] = "agmax"
    if request.source is None:
        values |= {f"model.{key}": saved.state["config"]["model"][key] for key in ("backbone", "arguments", "channels")}
    more = [Setting(key, value, str(saved.path)) for key, value in values.items() if key not in laid.typed]
    return resolve.layer_config(request._replace(source=request.source or saved.config.name)).resolve(more)
