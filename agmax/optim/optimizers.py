"""Create any optimizer of timm."""

from collections.abc import Iterable
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info
from torch import nn, optim

RMSPROP = {"alpha": 0.9, "eps": 1e-3}
"""The constants of the AgMax program."""


def reason_unusable(name: str, **settings: Any) -> str:
    """Return why an optimizer of timm cannot be used with the given settings of `optimizer`; empty if it can."""
    if get_optimizer_info(name).second_order:
        return "it needs second-order gradients, which are not computed"
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
    """Create timm's optimizer `name` for all parameters of the model.

    `momentum` is used by the optimizers that have one, and `nesterov` by sgd only. With a `backbone_lr_factor` the
    parameter groups have an `lr_factor`, by which the caller must multiply the learning rate of a step: that factor,
    or 1 for the parameters of the `head`.
    """
    options: dict[str, dict[str, Any]] = {"sgd": {"nesterov": nesterov}, "rmsprop": RMSPROP}
    parameters: Any = list(model.parameters()) if decay_bias_and_norm else model
    if backbone_lr_factor != 1:
        parameters = _groups(
            model, {id(value) for value in head}, backbone_lr_factor, weight_decay, decay_bias_and_norm
        )
    result: optim.Optimizer = create_optimizer_v2(
        parameters, opt=name, lr=lr, weight_decay=weight_decay, momentum=momentum, **options.get(name, {})
    )
    return result


def _groups(
    model: nn.Module, head: set[int], factor: float, weight_decay: float, decay_bias_and_norm: bool
) -> list[dict[str, Any]]:
    """Return parameter groups, each with one learning rate and one weight decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for value in model.parameters():
        groups.setdefault((id(value) in head, decay_bias_and_norm or value.ndim > 1), []).append(value)
    return [
        {"params": values, "lr_factor": 1.0 if is_head else factor, "weight_decay": weight_decay if decays else 0.0}
        for (is_head, decays), values in groups.items()
    ]
