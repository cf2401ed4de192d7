"""Create a backbone by its name in timm's registry, and initialize its weights."""

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
from agmax.models import cifar_resnet, pyramid_net, wide_resnet  # noqa: F401  registers our networks in timm

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""File names of weights on the Hugging Face hub."""


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
        UsageError: timm has no such network, or it does not take these arguments.
        DownloadError: its pretrained weights are not available.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:5]
        remedy = f"Similar: {', '.join(close)}" if close else "See --list models"
        raise UsageError(
            "unknown network", where=f"model.backbone={name}", why="timm has no network of this name", remedy=remedy
        )
    options = {"num_classes": num_classes, "in_chans": channels, "drop_rate": dropout, **(arguments or {})}
    if "img_size" not in options and has_fixed_input_size(name):
        options["img_size"] = image_size
    if pretrained:
        _check_pretrained_available(name)
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


def _check_pretrained_available(name: str) -> None:
    """Check that pretrained weights are cached or their server can be reached; timm itself would try for minutes.

    Raises:
        DownloadError: neither is the case.
    """
    pretrained_cfg = timm.models.get_pretrained_cfg(name)
    if pretrained_cfg is None or not pretrained_cfg.has_weights:
        raise DownloadError("no pretrained weights", where=name, why="timm has none for it", remedy=WITHOUT_NETWORK)
    url = str(pretrained_cfg.url or "")
    if pretrained_cfg.hf_hub_id:
        files = [pretrained_cfg.hf_hub_filename] if pretrained_cfg.hf_hub_filename else HUB_FILES
        is_cached = any(isinstance(try_to_load_from_cache(pretrained_cfg.hf_hub_id, file), str) for file in files)
        url = constants.ENDPOINT
    else:
        is_cached = (Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name).is_file()
    host = urlsplit(url).hostname
    if is_cached or host is None or urllib.request.getproxies().get("https"):
        return
    try:
        socket.create_connection((host, urlsplit(url).port or 443), timeout=10).close()
    except OSError as error:
        why = f"{host} cannot be reached: {error.strerror or error}"
        raise DownloadError("no pretrained weights", where=name, why=why, remedy=WITHOUT_NETWORK) from error


def has_fixed_input_size(name: str) -> bool:
    """Return whether a network of timm is built for one image size, as most transformers are."""
    pretrained_cfg = timm.models.get_pretrained_cfg(name)
    return pretrained_cfg is not None and bool(pretrained_cfg.fixed_input_size)


@torch.no_grad()
def reset_as_torch(model: nn.Module) -> None:
    """Re-initialize every layer by torch's default rule."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()


@torch.no_grad()
def reset_normal(model: nn.Module, std: float) -> None:
    """Initialize linear and convolution weights from N(0, std), batch-norm weights to 1 and biases to 0 (AgMax)."""
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
    """Set the weight of every residual block's last batch-norm to 0, so that the block starts as the identity."""
    for module in model.modules():
        zero_init_last = getattr(module, "zero_init_last", None)
        if callable(zero_init_last):
            zero_init_last()
