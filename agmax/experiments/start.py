"""What --resume names: the weights to start from, and the run folder to continue in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agmax.cli.parser import Request
from agmax.config import resolve
from agmax.config.resolve import Resolved, Setting
from agmax.config.schema import Config
from agmax.core.errors import CheckpointError, UsageError
from agmax.experiments.run_folder import Run, runs_of
from agmax.experiments.saved import Saved, loaded, located
from agmax.training.checkpoint_folder import Store

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


def resolved(request: Request) -> Resolved:
    """Resolve the configuration that was typed.

    Raises:
        UsageError: none was typed, or it is wrong.
    """
    if request.source is None:
        or_run = ", or --resume RUN" if request.resume == "" else ""
        raise UsageError("no configuration", remedy=f"Give --config NAME{or_run}; see --list")
    return resolve.resolve(request.source, dataset=request.dataset, parts=request.parts, settings=request.settings)


def training_start(request: Request) -> tuple[Resolved, Saved | None]:
    """Return the configuration to train, and the checkpoint to start from where `--resume X` names one."""
    if not request.resume:
        return resolved(request), None
    path = located(request.resume, runs_dir(request))
    if path.is_dir() and not Store(path / "checkpoints").saved() and (path / "config.yaml").is_file():
        source = request.source or str(path / "config.yaml")
        return resolved(request._replace(source=source)), None  # interrupted before its first checkpoint
    saved = loaded(path)
    before = saved.config
    typed = resolved(request) if request.source else _of_saved(request, saved)
    settings = request.settings
    if typed.config.dataset_seed != before.dataset_seed and "dataset.seed" not in typed.typed:
        pinned = Setting("dataset.seed", before.dataset_seed, str(saved.path))
        settings = (pinned, *settings)  # with another split, images trained on would be validated on
    asked = request._replace(settings=settings)
    if request.source is None:
        return _of_saved(asked, saved), saved
    return resolved(asked if _names_data(typed, request) else asked._replace(dataset=before.dataset.name)), saved


def run_to_continue(request: Request, config: Config, *, ignore: tuple[str, ...] = NOT_THE_RESULT) -> Run | None:
    """Return the run folder that --resume continues: the one named, or the newest of an equal configuration.

    None stands for a new folder: there is no --resume, or it names weights to start from with other settings.

    Raises:
        CheckpointError: --resume has no value and no run is equal.
    """
    if request.resume is None:
        return None
    if request.resume:
        path = located(request.resume, config.train.runs_dir)
        candidates = [Run(path)] if path.is_dir() else []
    else:
        candidates = list(runs_of(config.train.runs_dir, config.name, stem(config)))
    nearest: tuple[list[str], Path] | None = None
    for candidate in candidates:
        there = settings_of(candidate)
        if there is None:
            continue
        differing = resolve.differences(there, config, ignore=ignore)
        if not differing:
            return candidate
        if nearest is None or len(differing) < len(nearest[0]):
            nearest = differing, candidate.path
    if request.resume or request.num_runs > 1:
        return None
    looked = Path(config.train.runs_dir) / config.name / f"{stem(config)}[-n]"
    why = "no run has this configuration"
    if nearest:
        why += f"; {nearest[1]} differs in {', '.join(nearest[0][:5])}"
    remedy = "Leave --resume out to start a new run" if request.mode == "train" else "Give --resume RUN or CHECKPOINT"
    raise CheckpointError("nothing to resume", where=looked, why=why, remedy=remedy)


def unfinished_twin(config: Config) -> Path | None:
    """Return the newest unfinished run folder of an equal configuration."""
    for run in runs_of(config.train.runs_dir, config.name, stem(config)):
        there = settings_of(run)
        is_equal = there is not None and not resolve.differences(there, config, ignore=NOT_THE_RESULT)
        if is_equal and run.read_json("result.json") is None:
            return run.path
    return None


def settings_of(run: Run) -> Config | None:
    try:
        return resolve.resolve(str(run.path / "config.yaml")).config
    except UsageError:
        return None


def stem(config: Config) -> str:
    """Return what the run folders of a configuration are called, before their number."""
    return f"{config.dataset.name}-s{config.train.seed}"


def newest(run: Run) -> Saved | None:
    """Load the newest whole checkpoint of a run, or return None where it has none yet."""
    found = Store(run.checkpoints).newest()
    return Saved(*found) if found else None


def evaluation_start(request: Request, count: Callable[[Config], Config]) -> tuple[Resolved, Saved | None]:
    """Return what to evaluate: the settings saved with the weights, under what was typed.

    `count` fills in the number of classes of a configuration that leaves it to the data.

    Raises:
        UsageError: there is nothing to evaluate.
        CheckpointError: the checkpoint is not there, or not whole.
    """
    if request.resume is None:
        typed = resolved(request)
        if typed.config.model.pretrained:
            return typed, None
        raise UsageError("nothing to evaluate", remedy="Give --resume CHECKPOINT, or model.pretrained=true")
    if request.resume:
        saved = loaded(located(request.resume, runs_dir(request)))
    else:
        run = run_to_continue(request, count(resolved(request).config), ignore=(*NOT_THE_RESULT, "evaluation."))
        assert run is not None
        found = newest(run)
        if found is None:
            raise CheckpointError("no checkpoint yet", where=run.checkpoints, remedy="Train on with --train --resume")
        saved = found
    return _with_input_of(saved, request), saved


def _with_input_of(saved: Saved, request: Request) -> Resolved:
    """Resolve what was typed, for weights that were trained with what is saved.

    Without --config the saved settings stand below what was typed. With it the data set is still the saved one unless
    another is typed, images are sized and normalised as the weights have learnt them, and a network of the same name
    is the saved one in all that was not typed.
    """
    before, mapping = saved.config, saved.state["config"]
    typed = resolved(request) if request.source else _of_saved(request, saved)
    if saved.state.get("is_dataset_guessed") and _names_data(typed, request):
        return _of_agmax_on(typed, saved, request)
    is_same_data = not _names_data(typed, request) or typed.config.dataset.name == before.dataset.name
    keys = tuple(mapping["dataset"]) if is_same_data else OF_THE_INPUT
    if not is_same_data and typed.config.dataset.channels != before.dataset.channels:
        keys = ()
    values = {f"dataset.{key}": mapping["dataset"][key] for key in keys}
    if is_same_data:
        values |= {"dataset.seed": before.dataset_seed, "dataset.name": before.dataset.name}
    if (typed.config.model.backbone, typed.config.model.arguments) == (before.model.backbone, before.model.arguments):
        values |= {"model.channels": before.input_channels}
        values |= {f"objective.{key}": value for key, value in mapping["objective"].items()}
    values |= {"train.seed": before.train.seed, "train.epochs": before.train.epochs}
    settings = [Setting(key, value, str(saved.path)) for key, value in values.items() if key not in typed.typed]
    asked = request._replace(settings=(*settings, *request.settings))
    return resolved(asked) if request.source else _of_saved(asked, saved)


def _of_agmax_on(typed: Resolved, saved: Saved, request: Request) -> Resolved:
    """Resolve an evaluation of a file of the AgMax program on a data set that was named: it knows none of its own.

    Images are sized as the data set asks, and normalised by that program's constants, where it has some.
    """
    values: dict[str, Any] = {f"objective.{key}": value for key, value in saved.state["config"]["objective"].items()}
    values["dataset.num_classes"] = saved.config.dataset.num_classes
    if typed.config.dataset.agmax_mean is not None:
        values["dataset.statistics"] = "agmax"
    if request.source is None:
        values |= {f"model.{key}": saved.state["config"]["model"][key] for key in ("backbone", "arguments", "channels")}
    settings = [Setting(key, value, str(saved.path)) for key, value in values.items() if key not in typed.typed]
    source = request.source or saved.config.name
    return resolved(request._replace(source=source, settings=(*settings, *request.settings)))


def _names_data(typed: Resolved, request: Request) -> bool:
    """Tell whether the user named a data set, by a flag, an override or in a file."""
    return request.dataset is not None or "dataset.name" in typed.typed


def _of_saved(request: Request, saved: Saved) -> Resolved:
    mapping, origin = saved.state["config"], str(saved.path)
    return resolve.resolve_saved(mapping, origin, dataset=request.dataset, settings=request.settings)


def runs_dir(request: Request) -> str:
    if request.source is not None:
        return resolved(request).config.train.runs_dir
    typed = [str(setting.value) for setting in request.settings if setting.key == "train.runs_dir"]
    return typed[-1] if typed else "runs"
