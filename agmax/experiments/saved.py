"""Locate, download, load and check checkpoints of this program and of the AgMax program."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from agmax import builders
from agmax.checkpoints import agmax_format
from agmax.checkpoints.read import check_state, named_tensors, open_checkpoint, read_state, tensors_in
from agmax.config import names, resolve
from agmax.config.reader import read_yaml
from agmax.config.resolve import Setting
from agmax.config.schema import Config
from agmax.core.download import fetch
from agmax.core.errors import CheckpointError, DataError, UsageError, printable, without_secrets
from agmax.core.logs import log
from agmax.experiments.run_folder import RunFolder, find
from agmax.training.checkpoint_folder import CheckpointFolder

KINDS: dict[str, Any] = {
    "step": int,
    "class_names": (list, NoneType),
    "num_images": (int, NoneType),
    "fingerprint": (dict, NoneType),
    "optimizer": (dict, NoneType),
    "plateau": (list, tuple),
    "sums": dict,
}
"""The types of a checkpoint's entries, besides settings and weights."""

MAX_SIZE_RATIO = 4
"""Largest accepted size of all tensors of a checkpoint, as a multiple of the weights' size; with Adam it is 3."""

CHECKPOINTS = Path("checkpoints")
"""Folder of downloaded files, in the current directory."""


class Checkpoint(NamedTuple):
    """A loaded checkpoint."""

    path: Path
    state: dict[str, Any]
    config: Config  # the settings of its training


def check_complete(state: dict[str, Any], path: Path) -> Checkpoint:
    """Check that a checkpoint of this program has all entries and valid settings.

    Raises:
        CheckpointError: entries are missing, or the settings are not valid in this release.
    """
    missing = sorted({"config", "model", *KINDS} - state.keys())
    if missing or not isinstance(state["config"], dict):
        why = f"{', '.join(missing) or 'settings'} missing"
        raise CheckpointError("incomplete checkpoint", where=path, why=why)
    try:
        return Checkpoint(path, state, resolve.from_mapping(state["config"], str(path)))
    except UsageError as error:
        why = f"its settings belong to another release or to parts that are not registered: {error.lines[0]}"
        remedy = "If a file of your own registers them, give --import FILE"
        raise CheckpointError("checkpoint not understood", where=path, why=why, remedy=remedy) from error


def locate(text: str, runs_dir: str) -> Path:
    """Return the path of the value of --resume; a URL or a released file is downloaded to checkpoints/ once.

    Raises:
        CheckpointError: there is no such file or run.
        DownloadError: the download failed.
    """
    if text.lower().startswith(("https://", "http://")):
        if text.removeprefix(agmax_format.URL) in agmax_format.RELEASED:
            return agmax_format.fetch_release(text.removeprefix(agmax_format.URL), CHECKPOINTS)
        name = re.sub(r"[^A-Za-z0-9._-]", "_", text.partition("?")[0].rpartition("/")[2])[-100:] or "file.pth"
        path = CHECKPOINTS / hashlib.sha256(text.encode()).hexdigest()[:8] / name  # unique for this URL
        if path.is_file():
            log.info("note: using %s, downloaded before from %s", path, without_secrets(text))
            return path
        return fetch(text, path)
    name_of_release = agmax_format.find_release(text)
    if name_of_release is None:
        return find(text, runs_dir)
    for path in (Path(text).expanduser(), CHECKPOINTS / name_of_release):
        if path.is_file():
            return path
    return agmax_format.fetch_release(name_of_release, CHECKPOINTS)


def load(path: Path) -> Checkpoint:
    """Load a checkpoint file of this or the AgMax program, or the newest checkpoint of a folder or a run folder.

    Raises:
        CheckpointError: the file is missing or damaged, or the weights do not fit the network of its settings.
    """
    if path.is_dir():
        folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        checkpoint = newest(folder) if folder == path else newest_of_run(RunFolder(path))
        if checkpoint is None:
            raise CheckpointError("no checkpoint in the folder", where=folder)
        return checkpoint
    outlines: list[Checkpoint] = []
    with open_checkpoint(path) as file:
        state = read_state(file, path, check=lambda outline: outlines.append(_check_outline(outline, path)))
        if not agmax_format.is_agmax_checkpoint(state):
            return Checkpoint(path, check_state(state, path), outlines[0].config)
        state = _from_agmax(state, path)[0] | {"sha256": agmax_format.hash_of(file, path)}
        return Checkpoint(path, state, outlines[0].config)


def newest(folder: Path, *, fallback: Path | None = None) -> Checkpoint | None:
    """Load the newest undamaged checkpoint of a folder and its fallback folder, None if they have none."""
    item = CheckpointFolder(folder, fallback=fallback).newest()
    return check_complete(item[1], item[0]) if item else None


def newest_of_run(run: RunFolder, fallback_dir: str | None = None) -> Checkpoint | None:
    """Load the newest undamaged checkpoint of a run; `fallback_dir`, by default that of its settings, may hold it."""
    if fallback_dir is None:
        with suppress(UsageError):  # a damaged file names none
            train = read_yaml(run.path / "config.yaml").mapping.get("train")
            value = train.get("fallback_dir") if isinstance(train, dict) else None
            fallback_dir = value if isinstance(value, str) else None
    return newest(run.checkpoints, fallback=run.fallback(fallback_dir))


def _check_outline(outline: dict[str, Any], path: Path) -> Checkpoint:
    """Check a checkpoint before its tensors are loaded: entries, shapes of the weights, and total size.

    Raises:
        CheckpointError: an entry is missing or of the wrong type, the weights belong to another network, or the
            tensors are far larger than weights and optimizer need.
    """
    if agmax_format.is_agmax_checkpoint(outline):
        checkpoint = Checkpoint(path, *_from_agmax(outline, path))
    else:
        checkpoint = check_complete(check_state(outline, path), path)
    config = checkpoint.config
    wrong = [key for key, kinds in KINDS.items() if not isinstance(checkpoint.state[key], kinds)]
    names = checkpoint.state["class_names"] or []
    if wrong or not all(isinstance(name, str) for name in names) or config.dataset.num_classes is None:
        why = f"{', '.join(wrong) or 'class_names'} of the wrong type"
        raise CheckpointError("incomplete checkpoint", where=path, why=why)
    weights = named_tensors(checkpoint.state["model"], path)
    try:
        builders.check_fit(config, weights, where=path)
    except UsageError as error:
        raise CheckpointError("checkpoint not understood", where=path, why=error.lines[0]) from error
    storages = {
        storage._cdata: storage.nbytes() for item in tensors_in(outline) for storage in [item.untyped_storage()]
    }
    weight_bytes = sum(value.numel() * value.element_size() for value in weights.values())
    if sum(storages.values()) > MAX_SIZE_RATIO * weight_bytes + 2**20:
        why = f"its tensors take {sum(storages.values()):,} bytes, the weights only {weight_bytes:,} of them"
        raise CheckpointError("not a checkpoint", where=path, why=why)
    return checkpoint


def check_classes(config: Config, class_names: Sequence[str], *, known: Sequence[str] | None, dataset: str) -> None:
    """Compare the classes of the data with the `known` classes of the weights, which were trained on `dataset`.

    Raises:
        DataError: the data set is the same and its classes differ.
    """
    if not known or list(class_names) == list(known):  # files of the AgMax program hold no class names
        return
    data, weights = describe_classes(class_names), describe_classes(known)
    if config.dataset.name == dataset:
        why = f"the data set has {data}, the weights {weights}"
        remedy = "Restore them, or train a new model"
        raise DataError("classes have changed", where=config.dataset.root, why=why, remedy=remedy)
    log.info("note: classes are matched by their index: the data set has %s, the weights %s", data, weights)


def check_data(checkpoint: Checkpoint, config: Config, class_names: Sequence[str]) -> None:
    """Compare the classes of the data with those of a checkpoint's training.

    Raises:
        DataError: the data set is the same and its classes differ.
    """
    known = checkpoint.state["class_names"]
    check_classes(config, class_names, known=known, dataset=checkpoint.config.dataset.name)


def check_images(checkpoint: Checkpoint, config: Config, description: Mapping[str, Any]) -> None:
    """Compare the training images, of which `description` has number and fingerprint, with those of a checkpoint.

    Raises:
        DataError: they differ.
    """
    state, why = checkpoint.state, ""
    if description["num_images"] != state["num_images"]:
        why = f"{description['num_images']} training images, {state['num_images']} at the start of the run"
    elif state["fingerprint"] is not None:  # version 1 has none
        old, new = state["fingerprint"], description["fingerprint"]
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        why = f"other {' and '.join(changed)} of the training images than at the start of the run" if changed else ""
    if why:
        remedy = "Restore them, or start a new run from the weights: --resume with the path of a checkpoint"
        raise DataError("the data set has changed", where=config.dataset.root, why=why, remedy=remedy)


def describe_classes(class_names: Sequence[str]) -> str:
    """Return the number of classes and the first names: `10 classes (cat, dog, frog, ...)`."""
    first = ", ".join(class_names[:3])
    return printable(f"{len(class_names)} classes ({first}{', ...' if len(class_names) > 3 else ''})")


def _from_agmax(state: dict[str, Any], path: Path) -> tuple[dict[str, Any], Config]:
    """Convert a checkpoint of the AgMax program to a state of this program that has only weights.

    The network follows from the tensors. The data set is guessed from the file's name, else from the number of classes;
    images are normalized with the constants of the AgMax program.
    """
    contents = agmax_format.read_contents(state, path)
    by_classes = {10: "cifar10", 100: "cifar100", 1000: "imagenet"}
    matches = [name for name in names.files("dataset") if path.name.startswith(f"{name}-") and name != "folder"]
    dataset = max(matches, key=len, default=by_classes.get(contents.num_classes, "imagenet"))
    values: dict[str, int | str] = {
        "dataset.num_classes": contents.num_classes,
        "model.channels": contents.channels,
        "objective.num_views": contents.num_views,
        "objective.hidden_units": contents.hidden_units,
    }
    if names.dataset_fragment(dataset).settings["dataset"].get("agmax_mean"):
        values["dataset.statistics"] = "agmax"
    name = f"{contents.part}-standard{'-agmax' if contents.hidden_units else ''}"
    settings = [Setting(key, value, str(path)) for key, value in values.items()]
    try:
        config = resolve.resolve(name, dataset=dataset, settings=settings).config
    except UsageError as error:
        raise CheckpointError("not a network of the AgMax program", where=path, why=error.lines[0]) from error
    converted = {
        "config": config.model_dump(mode="json"),
        "class_names": None,
        "num_images": None,
        "fingerprint": None,
        "model": contents.weights,
        "step": 0,
        "optimizer": None,
        "plateau": (),
        "sums": {},
        "epoch_of_agmax": contents.epoch,
        "is_dataset_guessed": True,
    }
    return converted, config
