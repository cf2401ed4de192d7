"""Make a backbone by its name in timm's registry, with the initial weights that a configuration asks for."""

import socket
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from torch import nn

from agmax.core.errors import DownloadError, UsageError
from agmax.models import cifar_resnet, pyramid_net, wide_resnet  # noqa: F401  enters our networks into timm's registry

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What weights on the hub are called."""


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
    if pretrained:
        _refuse_without_network(name)
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError("the network does not take these arguments", where=name, why=str(error)) from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise DownloadError("no pretrained weights", where=name, why=str(error), remedy=WITHOUT_NETWORK) from error
    return model


WITHOUT_NETWORK = (
    "Fetch them on a machine with a network and write model.pretrained_file=FILE, or model.pretrained=false to train "
    "from scratch"
)


def _refuse_without_network(name: str) -> None:
    """Find out before timm tries for minutes whether its weights are here or their server can be reached.

    Raises:
        DownloadError: neither.
    """
    published = timm.models.get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        raise DownloadError("no pretrained weights", where=name, why="timm has none for it", remedy=WITHOUT_NETWORK)
    address = str(published.url or "")
    if published.hf_hub_id:
        files = [published.hf_hub_filename, *(() if published.hf_hub_filename else HUB_FILES)]
        is_here = any(
            isinstance(try_to_load_from_cache(published.hf_hub_id, file), str) for file in files if file is not None
        )
        address = constants.ENDPOINT
    else:
        is_here = (Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(address).path).name).is_file()
    host = urlsplit(address).hostname
    if is_here or host is None or urllib.request.getproxies().get("https"):
        return
    try:
        socket.create_connection((host, urlsplit(address).port or 443), timeout=10).close()
    except OSError as error:
        why = f"{host} cannot be reached: {error.strerror or error}"
        raise DownloadError("no pretrained weights", where=name, why=why, remedy=WITHOUT_NETWORK) from error


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
