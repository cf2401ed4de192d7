"""Any optimizer of timm's factory."""

from collections.abc import Iterable
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info
from torch import nn, optim

RMSPROP = {"alpha": 0.9, "eps": 1e-3}
"""The AgMax program's constants."""


def reason_unusable(name: str, **settings: Any) -> str:
    """Say why one of timm's optimizers cannot train here with the settings of `optimizer`, nothing where it can."""
    if get_optimizer_info(name).second_order:
        return "it needs gradients of gradients, which are not computed"
    try:
        optimizer(nn.ParameterList([torch.zeros(2, 2)]), name, **settings)
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


def optimizer(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    decay_bias_and_norm: bool,
    backbone_lr_factor: float = 1.0,
    head: Iterable[nn.Parameter] = (),
) -> optim.Optimizer:
    """Make the optimizer `name` of timm's for all parameters of the model.

    `momentum` is for those that have one, `nesterov` for sgd: other names say themselves how they look ahead.
    With a `backbone_lr_factor` all but the parameters of the `head` have it as `lr_factor` in their group, by which the
    learning rate of a step is to be multiplied.
    """
    of_all: dict[str, dict[str, Any]] = {"sgd": {"nesterov": nesterov}, "rmsprop": RMSPROP}
    particular = of_all.get(name, {})
    parameters: Any = list(model.parameters()) if decay_bias_and_norm else model
    if backbone_lr_factor != 1:
        parameters = _groups(
            model, {id(value) for value in head}, backbone_lr_factor, weight_decay, decay_bias_and_norm
        )
    made: optim.Optimizer = create_optimizer_v2(
        parameters, opt=name, lr=lr, weight_decay=weight_decay, momentum=momentum, **particular
    )
    return made


def _groups(
    model: nn.Module, head: set[int], factor: float, weight_decay: float, decay_bias_and_norm: bool
) -> list[dict[str, Any]]:
    """Return the parameters in groups of one learning rate and one weight decay each."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for value in model.parameters():
        groups.setdefault((id(value) in head, decay_bias_and_norm or value.ndim > 1), []).append(value)
    return [
        {"params": values, "lr_factor": 1.0 if of_head else factor, "weight_decay": weight_decay if decays else 0.0}
        for (of_head, decays), values in groups.items()
    ]
