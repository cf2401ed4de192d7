"""The optimizers of configurations: the reference programs' constants, weight decay, and the schedule."""

from typing import Any

import pytest
import torch

from agmax import builders
from agmax.optim.lr_schedules import learning_rate
from helpers.models import config_of


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.999)}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.999)}),
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.9, "alpha": 0.9, "eps": 1e-3}),
    ],
)
def test_optimizers_have_the_reference_programs_constants(
    name: str, kind: type[torch.optim.Optimizer], expected: dict[str, Any]
) -> None:
    config = config_of("ResNet8-standard-agmax", optimizer__name=name, optimizer__weight_decay=0.01)
    model = builders.model(config)
    optimizer = builders.optimizer(config, model)
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(model.parameters()))
    assert {key: group[key] for key in expected} == expected
    assert group["weight_decay"] == 0.01


def test_biases_and_norms_can_be_left_out_of_weight_decay() -> None:
    config = config_of("ResNet8-standard", optimizer__decay_bias_and_norm=False)
    groups = builders.optimizer(config, builders.model(config)).param_groups
    for group in groups:
        is_flat = [parameter.ndim <= 1 for parameter in group["params"]]
        assert all(is_flat) if group["weight_decay"] == 0 else not any(is_flat)
    assert {group["weight_decay"] for group in groups} == {0.0, 5e-4}


def test_the_configured_schedule_reaches_the_learning_rate() -> None:
    config = config_of("RegNetX002-standard")
    schedule = builders.learning_rate(config, steps_per_epoch=10)
    for step in (0, 30, 49, 50, 600, 999):
        expected = learning_rate(step, name="cosine", base=0.1, epochs=100, steps_per_epoch=10, warmup_epochs=5)
        assert schedule(step, num_reductions=0) == expected
