"""Make a backbone by its name in timm's registry, with the initial weights that a configuration asks for."""

from typing import Any

import timm
import torch
from torch import nn

from agmax.errors import DownloadError, UsageError
from agmax.models import cifar_resnet, pyramid_net, wide_resnet  # noqa: F401  enters our networks into timm's registry


def create(
    name: str,
    *,
    num_classes: int,
    channels: int,
    image_size: int,
    dropout: float = 0.0,
    pretrained: bool = False,
    arguments: dict[str, Any] | None = None,
) -> nn.Module:
    """Create the network `name`, with its classifier.

    Raises:
        UsageError: no such network, or it does not take these arguments.
        DownloadError: its pretrained weights cannot be had.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:5]
        remedy = f"Similar: {', '.join(close)}" if close else "See --list models"
        raise UsageError(
            "unknown network", where=f"model.backbone={name}", why="timm knows none of this name", remedy=remedy
        )
    options = {"num_classes": num_classes, "in_chans": channels, "drop_rate": dropout, **(arguments or {})}
    if "img_size" not in options and is_made_for_one_size(name):
        options["img_size"] = image_size
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError("the network does not take these arguments", where=name, why=str(error)) from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        remedy = "Write model.pretrained=false to train from scratch"
        raise DownloadError("no pretrained weights", where=name, why=str(error), remedy=remedy) from error
    return model


def is_made_for_one_size(name: str) -> bool:
    """Tell whether timm says of a network that it is built for one image size, as transformers are."""
    published = timm.models.get_pretrained_cfg(name)
    return published is not None and bool(published.fixed_input_size)


@torch.no_grad()
def reset_as_torch(model: nn.Module) -> None:
    """Draw every layer's weights anew by torch's default rule."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()


@torch.no_grad()
def reset_normal(model: nn.Module, std: float) -> None:
    """Draw linear and convolution weights from N(0, std), biases 0; batch-norm weights 1, biases 0 (AgMax)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, std)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def zero_last_norms(model: nn.Module) -> None:
    """Let every residual block start as the identity: the weight of its last batch-norm is 0."""
    for module in model.modules():
        zero = getattr(module, "zero_init_last", None)
        if callable(zero):
            zero()
