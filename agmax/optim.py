"""Optimizers, through timm's factory."""

from typing import Any

from timm.optim import create_optimizer_v2
from torch import nn, optim

RMSPROP = {"alpha": 0.9, "eps": 1e-3}
"""The AgMax program's constants."""


def optimizer(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    decay_bias_and_norm: bool,
) -> optim.Optimizer:
    """Make the optimizer `name` (sgd, adam, adamw, rmsprop) of all parameters of the model."""
    particular: dict[str, Any] = {
        "sgd": {"momentum": momentum, "nesterov": nesterov},
        "rmsprop": {"momentum": momentum, **RMSPROP},
    }.get(name, {})
    parameters = list(model.parameters()) if decay_bias_and_norm else model
    made: optim.Optimizer = create_optimizer_v2(parameters, opt=name, lr=lr, weight_decay=weight_decay, **particular)
    return made
