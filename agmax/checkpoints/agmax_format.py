"""Checkpoints of the AgMax program: a file's network is determined from its keys and shapes, never from its name."""

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
    """A checkpoint that the authors have published."""

    config: str
    top1: float  # on ImageNet, as published
    size: int | None  # bytes; None if not verified yet
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
"""The released files. Sizes and hashes are not verified yet: an evaluation prints the hash of its file.

The README of the AgMax program lists the URLs of all but the second file, whose URL is inferred from the others.
"""


def find_release(text: str) -> str | None:
    """Return the name of a released file, given with or without its suffix, or None."""
    return next((name for name in RELEASED if text in (name, name.removesuffix(".pth"))), None)


class ReleasedFile(NamedTuple):
    """A released file on disk."""

    path: Path
    size: int
    sha256: str
    is_verified: bool  # whether the hash equals the recorded one; False if none is recorded


def fetch_release(name: str, folder: Path) -> Path:
    """Return the path of a released file in a folder; download it if it does not exist.

    Raises:
        DownloadError: the file cannot be downloaded.
    """
    path, release = folder / name, RELEASED[name]
    if not path.exists():
        fetch(URL + name, path, size=release.size, sha256=release.sha256)
    return path


def verify_release(path: Path) -> ReleasedFile:
    """Check a released file and return its size and hash.

    Raises:
        CheckpointError: the file is damaged, or is another one.
    """
    with open_checkpoint(path) as file:
        verify(file, path)
        digest, size = hash_of(file, path), os.fstat(file.fileno()).st_size
    return ReleasedFile(path, size, digest, is_verified=RELEASED[path.name].sha256 is not None)


def hash_of(file: BufferedReader, path: Path) -> str:
    """Return the sha256 of an open file; compare it with the recorded one if it has the name of a released file.

    Raises:
        CheckpointError: the hashes differ.
    """
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    recorded = RELEASED[path.name].sha256 if path.name in RELEASED else None
    if recorded not in (None, digest):
        why, remedy = f"its sha256 is {digest} instead of {recorded}", "Remove it to download it again"
        raise CheckpointError("not the released file", where=path, why=why, remedy=remedy)
    return digest


class Contents(NamedTuple):
    """The contents of a checkpoint of the AgMax program."""

    part: str  # the model part of a configuration's name
    num_classes: int
    channels: int  # of the input
    num_views: int  # of the Q network, 1 without one
    hidden_units: int  # of the Q network, 0 without one
    weights: dict[str, Tensor]  # by the keys of this program
    epoch: int | None  # the last one before it was saved


class _Family(NamedTuple):
    """The keys of a family of networks."""

    stem: str  # the key of the first convolution in this program
    head: str  # the name of the classifier in this program
    unused_head: str | None  # an unused classifier in the files of the AgMax program


FAMILIES = {
    "ResNet": _Family("conv1.weight", "fc", None),
    "WideResNet": _Family("conv.weight", "head", None),
    "RegNet": _Family("stem.conv.weight", "head.fc", "head.fc"),
    "EfficientNet": _Family("conv_stem.weight", "classifier", "classifier"),
}

NUM_BLOCKS = {("ResNet", 16): "ResNet50", ("ResNet", 33): "ResNet101", ("EfficientNet", 16): "EfficientNetB0"}
NUM_BLOCKS |= {("EfficientNet", 23): "EfficientNetB1", ("RegNet", 13): "RegNetX002", ("RegNet", 16): "RegNetY004"}
"""The networks by family and number of blocks."""


def is_agmax_checkpoint(state: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint was written by the AgMax program."""
    return isinstance(state.get("model_state_dict"), dict)


def read_contents(state: Mapping[str, Any], where: Path) -> Contents:
    """Return the contents of a checkpoint of the AgMax program, without its optimizer and schedule.

    Raises:
        CheckpointError: it holds no network of that program, or one that this program does not have.
    """
    tensors: dict[str, Tensor] = {}
    for key, value in named_tensors(state["model_state_dict"], where).items():
        bare_key = key.removeprefix("module.").removeprefix("backbone.")
        if bare_key in tensors or not bare_key.startswith(("feature_extractor.", "classifier.", "qnet.model.")):
            raise CheckpointError("not a network of the AgMax program", where=where, why=f"it holds {key}"[:200])
        tensors[bare_key] = value
    prefix = "feature_extractor."
    body = {
        key.removeprefix(prefix).removeprefix("features."): value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    name = next((name for name, family in FAMILIES.items() if family.stem in body), None)
    head = tensors.get("classifier.weight")
    if name is None or head is None or head.ndim != 2 or body[FAMILIES[name].stem].ndim != 4 or len(head) < 2:
        why = f"no ResNet, WideResNet, RegNet or EfficientNet is among its {len(tensors)} tensors"
        raise CheckpointError("not a network of the AgMax program", where=where, why=why)
    family = FAMILIES[name]
    unused = f"{family.unused_head}." if family.unused_head else None
    weights = {f"backbone.{key}": value for key, value in body.items() if unused is None or not key.startswith(unused)}
    weights |= {
        key.replace("classifier", f"backbone.{family.head}", 1): value
        for key, value in tensors.items()
        if key.startswith("classifier.")
    }
    weights |= {key.replace("qnet", "q_network", 1): value for key, value in tensors.items() if key.startswith("qnet.")}
    first = tensors.get("qnet.model.0.weight")
    has_q_network = first is not None and first.ndim == 2
    epoch = state.get("epoch")
    return Contents(
        part=_model_part(name, body, where),
        num_classes=head.shape[0],
        channels=body[family.stem].shape[1],
        num_views=first.shape[1] // head.shape[0] if first is not None and has_q_network else 1,
        hidden_units=first.shape[0] if first is not None and has_q_network else 0,
        weights=weights,
        epoch=epoch if isinstance(epoch, int) else None,
    )


def _model_part(name: str, body: Mapping[str, Tensor], where: Path) -> str:
    """Return the model part of a configuration's name, determined from the family and the number of blocks."""
    pattern = {"RegNet": r"s\d\.b\d+\.", "EfficientNet": r"blocks\.\d\.\d+\."}.get(name, r"layer\d\.\d+\.")
    blocks = {match[0] for key in body if (match := re.match(pattern, key))}
    first = body.get("layer1.0.conv1.weight")
    if name == "WideResNet" and first is not None and first.ndim == 4:
        return f"WideResNet{2 * len(blocks) + 4}-{first.shape[0] // 16}"
    part = NUM_BLOCKS.get((name, len(blocks)))
    if part is None:
        why = f"a {name} of {len(blocks)} blocks"
        raise CheckpointError("not a network of the AgMax program", where=where, why=why)
    return part
