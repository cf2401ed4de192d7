"""Files as the AgMax program writes them, and a small ImageNet to evaluate them on."""

import collections
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.images import write_tree
from helpers.places import golden
from helpers.reference import reference_value

KEYS, EXPECTED = (golden("released_checkpoints.json")[part] for part in ("keys", "expected"))


def file_of(
    part: str,
    *,
    hidden_units: int = 0,
    prefix: str = "module.",
    classes: int | None = None,
    channels: int | None = None,
    is_filled: bool = True,
) -> dict[str, Any]:
    """Make what the AgMax program saves after 270 epochs: every tensor filled by its key, as the golden file says."""
    shapes = {key: list(shape) for key, shape in KEYS[part].items()}
    num_classes = classes or shapes["classifier.bias"][0]
    for key in ("classifier.weight", "classifier.bias"):
        shapes[key][0] = num_classes
    if channels:
        next(shape for shape in shapes.values() if len(shape) == 4)[1] = channels
    if hidden_units:
        shapes = {f"backbone.{key}": shape for key, shape in shapes.items()}
        shapes |= {
            "qnet.model.0.weight": [hidden_units, 2 * num_classes],
            "qnet.model.0.bias": [hidden_units],
            "qnet.model.2.weight": [num_classes, hidden_units],
            "qnet.model.2.bias": [num_classes],
        }
    fill = reference_value if is_filled else lambda key, shape: np.zeros(shape, np.float32 if shape else np.int64)
    weights = {prefix + key: torch.from_numpy(np.array(fill(key, tuple(shape)))) for key, shape in shapes.items()}
    momentum = {
        number: {"momentum_buffer": torch.zeros_like(value)} for number, value in enumerate(list(weights.values())[:3])
    }
    group = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True, "params": list(momentum)}
    schedule = {"milestones": collections.Counter([75, 150, 225]), "gamma": 0.1, "last_epoch": 269, "_last_lr": [0.001]}
    return {
        "epoch": 270,
        "best_top1": 81.19,
        "best_top5": 95.5,
        "best_epoch": 268,
        "best_model": "imagenet-agmax-mi-ResNet101-81.19.pth",
        "model_state_dict": collections.OrderedDict(weights),
        "optimizer_state_dict": {"state": momentum, "param_groups": [group]},
        "scheduler_state_dict": schedule,
    }


CLASSES = ["ant", "bee", "cat", "dog"]


def small_imagenet(root: Path) -> tuple[str, ...]:
    write_tree(root, CLASSES, {"train": 3, "val": 2}, size=(48, 40))
    return ("--dataset=imagenet", f"--imagenet-dir={root}", "train.num_workers=0")
