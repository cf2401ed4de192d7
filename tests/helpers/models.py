"""Models of a configuration, and the sizes of networks."""

from typing import Any

import torch
from torch import Tensor, nn

from agmax.config.resolve import Setting, resolve

FAMILIES = [
    "ResNet50",
    "ResNet101",
    "WideResNet28-10",
    "WideResNet40-2",
    "RegNetX002",
    "RegNetY004",
    "EfficientNetB0",
    "EfficientNetB1",
]


def config_of(name: str, dataset: str = "cifar10", **settings: Any) -> Any:
    typed = [Setting(key.replace("__", "."), value, "test") for key, value in settings.items()]
    return resolve(name, dataset=dataset, settings=typed).config


def size_of(model: nn.Module | None) -> int:
    assert model is not None
    return sum(parameter.numel() for parameter in model.parameters())


def weights_of(model: nn.Module, kind: type[nn.Module]) -> Tensor:
    return torch.cat([module.weight.detach().flatten() for module in model.modules() if isinstance(module, kind)])  # type: ignore[arg-type, operator]
