"""Checkpoints by what names them, and what they hold: this program's and the AgMax program's, checked before use."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from agmax import builders
from agmax.checkpoints import agmax_format
from agmax.checkpoints.read import check_state, named_tensors, open_checkpoint, read_state, tensors_in
from agmax.config import names, resolve
from agmax.config.resolve import Setting
from agmax.config.schema import Config
from agmax.core.download import fetch
from agmax.core.errors import CheckpointError, DataError, UsageError, printable, without_secrets
from agmax.core.logs import log
from agmax.experiments.run_folder import find
from agmax.training.checkpoint_folder import CheckpointFolder

KINDS: dict[str, Any] = {
    "step": int,
    "class_names": (list, NoneType),
    "num_images": (int, NoneType),
    "optimizer": (dict, NoneType),
    "plateau": (list, tuple),
    "sums": dict,
}
"""What a checkpoint holds beside settings and weights."""

MAX_SIZE_RATIO = 4
"""Times the bytes of the weights that all tensors of a checkpoint may take; with Adam's they take three."""

CHECKPOINTS = Path("checkpoints")
"""Where downloaded files are, below the folder that the program is started in."""


class Saved(NamedTuple):
    """A checkpoint that was loaded."""

    path: Path
    state: dict[str, Any]
    config: Config  # the settings that it was saved with


def check_complete(state: dict[str, Any], path: Path) -> Saved:
    """Check the settings of a checkpoint of this program.

    Raises:
        CheckpointError: it lacks some of what a checkpoint holds, or its settings are none of this program.
    """
    missing = sorted({"config", "model", *KINDS} - state.keys())
    if missing or not isinstance(state["config"], dict):
        why = f"it lacks {', '.join(missing) or 'settings'}"
        raise CheckpointError("not a whole checkpoint", where=path, why=why)
    try:
        return Saved(path, state, resolve.from_mapping(state["config"], str(path)))
    except UsageError as error:
        why = f"its settings are of another release, or of parts that are not joined: {error.lines[0]}"
        remedy = "Where a file of your own joins them, give --import FILE"
        raise CheckpointError("checkpoint not understood", where=path, why=why, remedy=remedy) from error


def locate(text: str, runs_dir: str) -> Path:
    """Return what --resume names: a path, or a file that is downloaded into checkpoints/ where it is not there yet.

    Raises:
        CheckpointError: there is nothing of this name.
        DownloadError: it is an address or a released file, and cannot be had.
    """
    if text.lower().startswith(("https://", "http://")):
        if text.removeprefix(agmax_format.URL) in agmax_format.RELEASED:
            return agmax_format.fetch_release(text.removeprefix(agmax_format.URL), CHECKPOINTS)
        name = re.sub(r"[^A-Za-z0-9._-]", "_", text.partition("?")[0].rpartition("/")[2])[-100:] or "file.pth"
        path = CHECKPOINTS / hashlib.sha256(text.encode()).hexdigest()[:8] / name  # of this address alone
        if path.is_file():
            log.info("note: %s is there, from %s", path, without_secrets(text))
            return path
        return fetch(text, path)
    name_of_release = agmax_format.find_release(text)
    if name_of_release is None:
        return find(text, runs_dir)
    there = [path for path in (Path(text).expanduser(), CHECKPOINTS / name_of_release) if path.is_file()]
    return there[0] if there else agmax_format.fetch_release(name_of_release, CHECKPOINTS)


def load(path: Path) -> Saved:
    """Load a checkpoint file, of the AgMax program too, or the newest of a folder of checkpoints or a run folder.

    Raises:
        CheckpointError: it is not there, damaged, or its weights are not those of the network that it names.
    """
    if path.is_dir():
        folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        found = newest(folder)
        if found is None:
            raise CheckpointError("no checkpoint in the folder", where=folder)
        return found
    outlines: list[Saved] = []
    with open_checkpoint(path) as file:
        state = read_state(file, path, check=lambda outline: outlines.append(_check_outline(outline, path)))
        if not agmax_format.is_agmax_checkpoint(state):
            return Saved(path, check_state(state, path), outlines[0].config)
        state = _from_agmax(state, path)[0] | {"sha256": agmax_format.hash_of(file, path)}
        return Saved(path, state, outlines[0].config)


def newest(folder: Path) -> Saved | None:
    """Load the newest whole checkpoint of a folder, or return None where it has none yet."""
    found = CheckpointFolder(folder).newest()
    return check_complete(found[1], found[0]) if found else None


def _check_outline(outline: dict[str, Any], path: Path) -> Saved:
    """Compare what a file would take of the memory with the network that it names; its tensors hold no numbers yet.

    Raises:
        CheckpointError: something is missing or of another kind, the weights are of another network, or there is far
            more beside them than an optimizer keeps.
    """
    if agmax_format.is_agmax_checkpoint(outline):
        saved = Saved(path, *_from_agmax(outline, path))
    else:
        saved = check_complete(check_state(outline, path), path)
    config = saved.config
    wrong = [key for key, kinds in KINDS.items() if not isinstance(saved.state[key], kinds)]
    names = saved.state["class_names"] or []
    if wrong or not all(isinstance(name, str) for name in names) or config.dataset.num_classes is None:
        what = ", ".join(wrong) or "the classes"
        raise CheckpointError("not a whole checkpoint", where=path, why=f"what it says of {what} is of another kind")
    weights = named_tensors(saved.state["model"], path)
    try:
        builders.check_fit(config, weights, where=path)
    except UsageError as error:
        raise CheckpointError("checkpoint not understood", where=path, why=error.lines[0]) from error
    storages = {
        storage._cdata: storage.nbytes() for item in tensors_in(outline) for storage in [item.untyped_storage()]
    }
    of_weights = sum(value.numel() * value.element_size() for value in weights.values())
    if sum(storages.values()) > MAX_SIZE_RATIO * of_weights + 2**20:
        why = f"its tensors take {sum(storages.values()):,} bytes, the weights {of_weights:,} of them"
        raise CheckpointError("not a checkpoint", where=path, why=why)
    return saved


def check_classes(config: Config, class_names: Sequence[str], *, known: Sequence[str] | None, dataset: str) -> None:
    """Compare the classes of the data with those that the weights know, of the data set that they were trained on.

    Raises:
        DataError: the same data set has other classes.
    """
    if not known or list(class_names) == list(known):  # the AgMax program does not keep them
        return
    here, there = describe_classes(class_names), describe_classes(known)
    if config.dataset.name == dataset:
        raise DataError("classes have changed", where=config.dataset.root, why=f"{here}, the weights know {there}")
    log.info("note: classes are matched by their place: %s here, the weights know %s", here, there)


def check_data(saved: Saved, config: Config, class_names: Sequence[str], num_images: int | None = None) -> None:
    """Compare the classes with those that the weights know, and the images with those that a run began with.

    Raises:
        DataError: the same data set has other classes or, where `num_images` is given, another number of images.
    """
    check_classes(config, class_names, known=saved.state["class_names"], dataset=saved.config.dataset.name)
    if num_images not in (None, saved.state["num_images"]):
        why = f"{num_images} images to train on, there were {saved.state['num_images']}"
        remedy = "Restore them, or start a new run from the weights: --resume with the path of a checkpoint"
        raise DataError(
            "the data set has changed since the run began", where=config.dataset.root, why=why, remedy=remedy
        )


def describe_classes(class_names: Sequence[str]) -> str:
    """Say how many classes there are, and what the first are called."""
    first = ", ".join(class_names[:3])
    return printable(f"{len(class_names)} classes ({first}{', ...' if len(class_names) > 3 else ''})")


def _from_agmax(state: dict[str, Any], path: Path) -> tuple[dict[str, Any], Config]:
    """Return what a checkpoint of the AgMax program holds, as one of this program that has only weights.

    The network is read from the file, its name only suggests the data set; the images are normalised as there.
    """
    found = agmax_format.read_contents(state, path)
    by_classes = {10: "cifar10", 100: "cifar100", 1000: "imagenet"}
    told = [name for name in names.files("dataset") if path.name.startswith(f"{name}-") and name != "folder"]
    dataset = max(told, key=len, default=by_classes.get(found.num_classes, "imagenet"))
    values: dict[str, int | str] = {
        "dataset.num_classes": found.num_classes,
        "model.channels": found.channels,
        "objective.num_views": found.num_views,
        "objective.hidden_units": found.hidden_units,
    }
    if names.dataset_fragment(dataset).settings["dataset"].get("agmax_mean"):
        values["dataset.statistics"] = "agmax"
    name = f"{found.part}-standard{'-agmax' if found.hidden_units else ''}"
    settings = [Setting(key, value, str(path)) for key, value in values.items()]
    try:
        config = resolve.resolve(name, dataset=dataset, settings=settings).config
    except UsageError as error:
        raise CheckpointError("not a network of the AgMax program", where=path, why=error.lines[0]) from error
    made = {
        "config": config.model_dump(mode="json"),
        "class_names": None,
        "num_images": None,
        "model": found.weights,
        "step": 0,
        "optimizer": None,
        "plateau": (),
        "sums": {},
        "epoch_of_agmax": found.epoch,
        "is_dataset_guessed": True,
    }
    return made, config
