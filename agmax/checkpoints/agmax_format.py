"""Files of the AgMax program: what a file holds is told by its keys and shapes, never by its name."""

import hashlib
import os
import re
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from agmax.checkpoints.read import named_tensors, open_checkpoint, verify
from agmax.core.download import fetch
from agmax.core.errors import CheckpointError


class Release(NamedTuple):
    """One of the files that the authors have published."""

    config: str
    top1: float  # on ImageNet, as published
    size: int | None  # bytes, where somebody has verified them
    sha256: str | None


URL = "https://github.com/roatienza/agmax/releases/download/agmax-0.1.0/"

RELEASED = {
    "imagenet-agmax-mi-ResNet101-cutmix-auto_augment-81.19-mlp-4096.pth": Release(
        "ResNet101-auto_augment-cutmix-agmax", 81.19, None, None
    ),
    "imagenet-agmax-ResNet50-cutmix-auto_augment-79.12-mlp-2048.pth": Release(
        "ResNet50-auto_augment-cutmix-agmax", 79.12, None, None
    ),
    "imagenet-standard-ResNet101-cutmix-auto_augment-80.69.pth": Release(
        "ResNet101-auto_augment-cutmix", 80.69, None, None
    ),
    "imagenet-standard-ResNet50-cutmix-auto_augment-78.5.pth": Release(
        "ResNet50-auto_augment-cutmix", 78.5, None, None
    ),
}
"""The released files. Sizes and hashes are not verified yet: an evaluation prints the hash of the file it read.

That the second one lies at this address is inferred from the others; the README of the AgMax program names the others.
"""


def find_release(text: str) -> str | None:
    """Return the released file that a text names, with or without its ending, or None."""
    return next((name for name in RELEASED if text in (name, name.removesuffix(".pth"))), None)


class ReleasedFile(NamedTuple):
    """A released file that is here."""

    path: Path
    size: int
    sha256: str
    is_verified: bool  # whether the hash is the recorded one, False where none is


def fetch_release(name: str, folder: Path) -> Path:
    """Return a released file in a folder, downloaded where it is not there yet.

    Raises:
        DownloadError: it cannot be had.
    """
    path, release = folder / name, RELEASED[name]
    if not path.exists():
        fetch(URL + name, path, size=release.size, sha256=release.sha256)
    return path


def verify_release(path: Path) -> ReleasedFile:
    """Check a released file and return what it is.

    Raises:
        CheckpointError: it is damaged, or another file.
    """
    with open_checkpoint(path) as file:
        verify(file, path)
        digest, size = hash_of(file, path), os.fstat(file.fileno()).st_size
    return ReleasedFile(path, size, digest, is_verified=RELEASED[path.name].sha256 is not None)


def hash_of(file: BufferedReader, path: Path) -> str:
    """Return the sha256 of an open file, compared with the recorded one where it has the name of a released file.

    Raises:
        CheckpointError: they differ.
    """
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    recorded = RELEASED[path.name].sha256 if path.name in RELEASED else None
    if recorded not in (None, digest):
        why, remedy = f"its sha256 is {digest} instead of {recorded}", "Remove it to download it again"
        raise CheckpointError("not the released file", where=path, why=why, remedy=remedy)
    return digest


class Contents(NamedTuple):
    """What a file of the AgMax program holds."""

    part: str  # the model part of a configuration's name
    num_classes: int
    channels: int  # of the input
    num_views: int  # that the Q network takes, 1 where there is none
    hidden_units: int  # of the Q network, 0 where there is none
    weights: dict[str, Tensor]  # by the keys of this program
    epoch: int | None  # after which it was written


class _Family(NamedTuple):
    """Where a family of networks keeps what."""

    stem: str  # the first convolution, by the key of this program
    head: str  # the classifier's name in this program
    dead_head: str | None  # an unused classifier that the AgMax program keeps in the file


FAMILIES = {
    "ResNet": _Family("conv1.weight", "fc", None),
    "WideResNet": _Family("conv.weight", "head", None),
    "RegNet": _Family("stem.conv.weight", "head.fc", "head.fc"),
    "EfficientNet": _Family("conv_stem.weight", "classifier", "classifier"),
}

NUM_BLOCKS = {("ResNet", 16): "ResNet50", ("ResNet", 33): "ResNet101", ("EfficientNet", 16): "EfficientNetB0"}
NUM_BLOCKS |= {("EfficientNet", 23): "EfficientNetB1", ("RegNet", 13): "RegNetX002", ("RegNet", 16): "RegNetY004"}
"""Networks by their number of blocks."""


def is_agmax_checkpoint(state: Mapping[str, Any]) -> bool:
    """Tell whether a checkpoint was written by the AgMax program."""
    return isinstance(state.get("model_state_dict"), dict)


def read_contents(state: Mapping[str, Any], where: Path) -> Contents:
    """Return what a checkpoint of the AgMax program holds; its optimizer and schedule are left behind.

    Raises:
        CheckpointError: it holds no network of that program, or one that is not part of this one.
    """
    found: dict[str, Tensor] = {}
    for key, value in named_tensors(state["model_state_dict"], where).items():
        bare = key.removeprefix("module.").removeprefix("backbone.")
        if bare in found or not bare.startswith(("feature_extractor.", "classifier.", "qnet.model.")):
            raise CheckpointError("not a network of the AgMax program", where=where, why=f"it holds {key}"[:200])
        found[bare] = value
    prefix = "feature_extractor."
    inside = {
        key.removeprefix(prefix).removeprefix("features."): value
        for key, value in found.items()
        if key.startswith(prefix)
    }
    name = next((name for name, family in FAMILIES.items() if family.stem in inside), None)
    head = found.get("classifier.weight")
    if name is None or head is None or head.ndim != 2 or inside[FAMILIES[name].stem].ndim != 4 or len(head) < 2:
        why = f"no ResNet, WideResNet, RegNet or EfficientNet is among its {len(found)} tensors"
        raise CheckpointError("not a network of the AgMax program", where=where, why=why)
    family = FAMILIES[name]
    dead = f"{family.dead_head}." if family.dead_head else None
    weights = {f"backbone.{key}": value for key, value in inside.items() if dead is None or not key.startswith(dead)}
    weights |= {
        key.replace("classifier", f"backbone.{family.head}", 1): value
        for key, value in found.items()
        if key.startswith("classifier.")
    }
    weights |= {key.replace("qnet", "q_network", 1): value for key, value in found.items() if key.startswith("qnet.")}
    first = found.get("qnet.model.0.weight")
    has_q_network = first is not None and first.ndim == 2
    epoch = state.get("epoch")
    return Contents(
        part=_part(name, inside, where),
        num_classes=head.shape[0],
        channels=inside[family.stem].shape[1],
        num_views=first.shape[1] // head.shape[0] if first is not None and has_q_network else 1,
        hidden_units=first.shape[0] if first is not None and has_q_network else 0,
        weights=weights,
        epoch=epoch if isinstance(epoch, int) else None,
    )


def _part(name: str, inside: Mapping[str, Tensor], where: Path) -> str:
    """Name the network of a family by its blocks."""
    pattern = {"RegNet": r"s\d\.b\d+\.", "EfficientNet": r"blocks\.\d\.\d+\."}.get(name, r"layer\d\.\d+\.")
    blocks = {match[0] for key in inside if (match := re.match(pattern, key))}
    first = inside.get("layer1.0.conv1.weight")
    if name == "WideResNet" and first is not None and first.ndim == 4:
        return f"WideResNet{2 * len(blocks) + 4}-{first.shape[0] // 16}"
    part = NUM_BLOCKS.get((name, len(blocks)))
    if part is None:
        why = f"a {name} of {len(blocks)} blocks"
        raise CheckpointError("not a network of the AgMax program", where=where, why=why)
    return part
