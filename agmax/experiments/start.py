"""What --resume names: the weights to start from, and the run folder to continue in."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from agmax import builders
from agmax.config import resolve
from agmax.config.resolve import Ask, Laid, Resolved, Setting
from agmax.config.schema import Config
from agmax.core import devices
from agmax.core.errors import CheckpointError, UsageError
from agmax.core.logs import log
from agmax.experiments.run_folder import Run, probe, runs_of
from agmax.experiments.saved import Saved, load, locate, newest
from agmax.training.checkpoint_folder import CheckpointFolder

NOT_THE_RESULT = (
    "name",
    "dataset.on_bad_image",
    "train.device",
    "train.log_every_steps",
    "train.num_workers",
    "train.runs_dir",
    "train.save_every_steps",
)
"""Settings that do not change what a training computes."""

OF_THE_INPUT = ("image_size", "test_image_size", "mean", "std", "statistics", "agmax_mean", "agmax_std")
"""Settings of the data set that belong to the weights: they tell what images must be like."""


class Start(NamedTuple):
    """Where a training or an evaluation begins."""

    resolved: Resolved
    checkpoint: Saved | None  # None: fresh weights
    run: Run | None = None  # the folder to continue in, locked; None: a new one


@contextmanager
def find_start(ask: Ask, *, or_new: bool = False) -> Iterator[Start]:
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
        if ask.resume:
            start = _named(ask, held)
        else:
            resolved = _ready(resolve.lay(ask).resolve())
            start = Start(resolved, None)
            if ask.resume == "":
                run = _newest_run(resolved.config, remedy="Leave --resume out to start a new run", or_none=or_new)
                if run is not None:
                    held.enter_context(run.locked())
                    start = Start(resolved, None if run.is_finished else newest(run.checkpoints), run)
        if start.run is None and (twin := unfinished_twin(start.resolved.config)):
            log.info("note: %s has these settings and is not finished; --resume without value continues it", twin)
        yield start


def _named(ask: Ask, held: ExitStack) -> Start:
    """Return the start that `--resume X` names: a run to continue in, which is locked, or weights for a new one."""
    assert ask.resume
    resolve.check_keys(ask)
    place = locate(ask.resume, runs_dir(ask))
    run = Run(place) if (place / "config.yaml").is_file() else None
    saved = newest(run.checkpoints) if run is not None else load(place)
    if saved is None:  # interrupted before its first checkpoint
        assert run is not None
        resolved = _ready(resolve.lay(ask._replace(source=ask.source or str(run.path / "config.yaml"))).resolve())
        before = settings_of(run)
    else:
        resolved, before = _ready(_with_data_of(saved, ask)), saved.config
    if run is None or before is None or differences(before, resolved.config):
        return Start(resolved, saved)  # its weights alone are taken; nothing is written there
    held.enter_context(run.locked())
    saved_now = CheckpointFolder(run.checkpoints).saved()
    if saved_now and (saved is None or saved_now[-1] != saved.path):  # another program has trained on meanwhile
        saved = newest(run.checkpoints)
    return Start(resolved, saved, run)


def _with_data_of(saved: Saved, ask: Ask) -> Resolved:
    """Resolve what was typed for a training from a checkpoint, on the data of the checkpoint unless others are named.

    With another split of the same data, images trained on would be validated on.
    """
    before, laid = saved.config, _over(saved, ask)
    more = []
    if ask.source is not None and not laid.names_data:
        more.append(Setting("dataset.name", before.dataset.name, str(saved.path)))
    seed = laid.value("dataset.seed")
    own_seed = laid.value("train.seed") if seed is None else seed
    if own_seed != before.dataset_seed and "dataset.seed" not in laid.typed:
        more.append(Setting("dataset.seed", before.dataset_seed, str(saved.path)))
    return laid.resolve(more)


def _over(saved: Saved, ask: Ask) -> Laid:
    """Lay what was typed over the configuration that was typed or, where none was, over the checkpoint's settings."""
    return resolve.lay_over(saved.state["config"], str(saved.path), ask) if ask.source is None else resolve.lay(ask)


def _ready(resolved: Resolved) -> Resolved:
    """Find out before the data are looked at whether a training can run here, then count the classes."""
    config = resolved.config
    devices.choose_device(config.train.device)
    builders.check_optimizer(config)
    probe(config.train.runs_dir)
    return resolved._replace(config=builders.counted(config, lambda: builders.split(config, "train")))


def _newest_run(
    config: Config, *, remedy: str, or_none: bool = False, ignore: tuple[str, ...] = NOT_THE_RESULT
) -> Run | None:
    """Return the newest run folder of an equal configuration.

    Raises:
        CheckpointError: there is none, unless `or_none` says that there need not be.
    """
    nearest: tuple[list[str], Path] | None = None
    for candidate in runs_of(config.train.runs_dir, config.name, stem(config)):
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


def unfinished_twin(config: Config) -> Path | None:
    """Return the newest unfinished run folder of an equal configuration."""
    for run in runs_of(config.train.runs_dir, config.name, stem(config)):
        there = settings_of(run)
        if there is not None and not differences(there, config) and run.read_json("result.json") is None:
            return run.path
    return None


def settings_of(run: Run) -> Config | None:
    """Return the settings of a run folder, None where it has none that can be read."""
    try:
        return resolve.resolve(str(run.path / "config.yaml")).config
    except UsageError:
        return None


def differences(old: Config, new: Config, *, ignore: tuple[str, ...] = NOT_THE_RESULT) -> list[str]:
    """Describe the settings that differ and change what a training computes."""
    return resolve.differences(old, new, ignore=ignore)


def stem(config: Config) -> str:
    """Return what the run folders of a configuration are called, before their number."""
    return f"{config.dataset.name}-s{config.train.seed}"


def runs_dir(ask: Ask) -> str:
    """Return the folder of runs that was typed, or the default; nothing checks the other settings."""
    if ask.source is not None:
        return str(resolve.lay(ask).value("train.runs_dir"))
    typed = [str(setting.value) for setting in ask.settings if setting.key == "train.runs_dir"]
    return typed[-1] if typed else "runs"


# --- for evaluations ---------------------------------------------------------------------------------------------


def find_weights(ask: Ask, *, split: str = "train") -> Start:
    """Find what to evaluate: the settings saved with the weights, under what was typed.

    Where `--resume` has no value and a configuration leaves its number of classes to the data, `split` is looked at.

    Raises:
        UsageError: there is nothing to evaluate.
        CheckpointError: the checkpoint is not there, or not whole.
    """
    if ask.resume is None:
        typed = resolve.lay(ask).resolve()
        if typed.config.model.pretrained:
            return Start(typed, None)
        raise UsageError("nothing to evaluate", remedy="Give --resume CHECKPOINT, or model.pretrained=true")
    if ask.resume:
        resolve.check_keys(ask)
        saved = load(locate(ask.resume, runs_dir(ask)))
    else:
        config = resolve.lay(ask).resolve().config
        counted = builders.counted(config, lambda: builders.split(config, split))
        ignore = (*NOT_THE_RESULT, "evaluation.")
        run = _newest_run(counted, remedy="Give --resume RUN or CHECKPOINT", ignore=ignore)
        assert run is not None
        found = newest(run.checkpoints)
        if found is None:
            raise CheckpointError("no checkpoint yet", where=run.checkpoints, remedy="Train on with --train --resume")
        saved = found
    return Start(_with_input_of(saved, ask), saved)


def _with_input_of(saved: Saved, ask: Ask) -> Resolved:
    """Resolve what was typed, for weights that were trained with what is saved.

    Without --config the saved settings stand below what was typed. With it the data set is still the saved one unless
    another is typed, images are sized and normalised as the weights have learnt them, and a network of the same name
    is the saved one in all that was not typed.
    """
    before, mapping, laid = saved.config, saved.state["config"], _over(saved, ask)
    if saved.state.get("is_dataset_guessed") and laid.names_data:
        return _of_agmax_on(laid, saved, ask)
    is_same_data = not laid.names_data or laid.value("dataset.name") == before.dataset.name
    keys = tuple(mapping["dataset"]) if is_same_data else OF_THE_INPUT
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


def _of_agmax_on(laid: Laid, saved: Saved, ask: Ask) -> Resolved:
    """Resolve an evaluation of a file of the AgMax program on a data set that was named: it knows none of its own.

    Images are sized as the data set asks, and normalised by that program's constants, where it has some.
    """
    values: dict[str, Any] = {f"objective.{key}": value for key, value in saved.state["config"]["objective"].items()}
    values["dataset.num_classes"] = saved.config.dataset.num_classes
    if laid.value("dataset.agmax_mean") is not None:
        values["dataset.statistics"] = "agmax"
    if ask.source is None:
        values |= {f"model.{key}": saved.state["config"]["model"][key] for key in ("backbone", "arguments", "channels")}
    more = [Setting(key, value, str(saved.path)) for key, value in values.items() if key not in laid.typed]
    return resolve.lay(ask._replace(source=ask.source or saved.config.name)).resolve(more)
