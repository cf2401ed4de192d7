"""What --resume names: the weights to start from, and the run folder to continue in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from agmax.checkpoints.load import load
from agmax.checkpoints.store import Store
from agmax.cli import Request
from agmax.config import resolve
from agmax.config.resolve import Resolved, Setting
from agmax.config.schema import Config
from agmax.errors import CheckpointError, UsageError
from agmax.run import Run, find, runs_of

NOT_THE_RESULT = ("train.runs_dir", "train.log_every_steps", "train.num_workers", "train.device", "name")
"""Settings that do not change what a training computes."""


class Saved(NamedTuple):
    """A checkpoint that was loaded."""

    path: Path
    state: dict[str, Any]

    @property
    def config(self) -> Config:
        return resolve.from_mapping(self.state["config"], str(self.path))

    @property
    def run_folder(self) -> str | None:
        """Return the run folder that the file lies in."""
        return str(self.path.parent.parent) if self.path.parent.name == "checkpoints" else None


def resolved(request: Request) -> Resolved:
    """Resolve the configuration that was typed.

    Raises:
        UsageError: none was typed, or it is wrong.
    """
    if request.source is None:
        raise UsageError("no configuration", remedy="Give --config NAME; see --list")
    return resolve.resolve(request.source, dataset=request.dataset, parts=request.parts, settings=request.settings)


def training_start(request: Request) -> tuple[Resolved, Saved | None]:
    """Return the configuration to train, and the checkpoint to start from where `--resume X` names one."""
    if not request.resume:
        return resolved(request), None
    path = find(request.resume, _runs_dir(request))
    if path.is_dir() and not Store(path / "checkpoints").saved() and (path / "config.yaml").is_file():
        return _of_run(request, path), None  # interrupted before its first checkpoint
    saved = _load(path)
    return (_of_saved(request, saved) if request.source is None else resolved(request)), saved


def run_to_continue(request: Request, config: Config) -> Run | None:
    """Return the run folder that --resume continues: the one named, or the newest of an equal configuration.

    None stands for a new folder: there is no --resume, or it names weights to start from with other settings.

    Raises:
        CheckpointError: --resume has no value and no run is equal.
    """
    if request.resume is None:
        return None
    if request.resume:
        path = find(request.resume, config.train.runs_dir)
        candidates = [Run(path)] if path.is_dir() else []
    else:
        candidates = list(runs_of(config.train.runs_dir, config.name, stem(config)))
    reasons: list[str] = []
    for candidate in candidates:
        try:
            there = resolve.resolve(str(candidate.path / "config.yaml")).config
        except UsageError:
            continue
        differing = resolve.differences(there, config, ignore=NOT_THE_RESULT)
        if not differing:
            return candidate
        reasons.append(f"{candidate.path} differs in {'; '.join(differing[:3])}")
    if request.resume or request.num_runs > 1:
        return None
    looked = Path(config.train.runs_dir) / config.name / f"{stem(config)}[-n]"
    why = f"no run has this configuration{': ' + reasons[0] if reasons else ''}"
    raise CheckpointError("nothing to resume", where=looked, why=why, remedy="Leave --resume out to start a new run")


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
        saved = _load(find(request.resume, _runs_dir(request)))
    else:
        run = run_to_continue(request, count(resolved(request).config))
        assert run is not None
        found = newest(run)
        if found is None:
            raise CheckpointError("no checkpoint yet", where=run.checkpoints, remedy="Train on with --train --resume")
        saved = found
    return (_of_saved(request, saved) if request.source is None else _typed_on_saved_data(request, saved)), saved


def _typed_on_saved_data(request: Request, saved: Saved) -> Resolved:
    """Resolve what was typed, on the data set of the checkpoint and as it was normalised, unless another is typed."""
    typed = resolved(request)
    of_data = saved.state["config"]["dataset"]
    origin = typed.origins["dataset.name"]
    is_typed = request.dataset is not None or not origin.startswith("configs/dataset/")
    if is_typed and typed.config.dataset.name != of_data["name"]:
        return typed
    settings = [Setting(f"dataset.{key}", value, str(saved.path)) for key, value in of_data.items()]
    return resolved(request._replace(dataset=of_data["name"], settings=(*settings, *request.settings)))


def _of_saved(request: Request, saved: Saved) -> Resolved:
    mapping, origin = saved.state["config"], str(saved.path)
    return resolve.resolve_saved(mapping, origin, dataset=request.dataset, settings=request.settings)


def _of_run(request: Request, path: Path) -> Resolved:
    return resolved(request if request.source else request._replace(source=str(path / "config.yaml")))


def _load(path: Path) -> Saved:
    """Load a checkpoint file, or the newest of a run folder."""
    if not path.is_dir():
        return Saved(path, load(path))
    store = Store(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
    found = store.newest()
    if found is None:
        raise CheckpointError("no checkpoint in the folder", where=store.folder)
    return Saved(*found)


def _runs_dir(request: Request) -> str:
    typed = [str(setting.value) for setting in request.settings if setting.key == "train.runs_dir"]
    return typed[-1] if typed else "runs"
