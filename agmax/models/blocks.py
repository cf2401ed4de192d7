"""The interface that timm expects of a network, shared by our own networks."""

from typing import Any

import torch
from torch import Tensor, nn


class ImageNetwork(nn.Module):
    """A network that ends in global average pooling and one linear layer named `head`.

    Subclasses set `num_features` and `head` and define `forward_features`.
    """

    num_features: int
    num_classes: int
    head: nn.Module

    def set_head(self, num_features: int, num_classes: int, drop_rate: float) -> None:
        """Add the classifier; with 0 classes the network returns its pooled features."""
        self.num_features = self.head_hidden_size = num_features
        self.drop_rate = drop_rate
        self.reset_classifier(num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last feature map [B, F, h, w]."""
        raise NotImplementedError

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits [B, K] of a feature map, or its pooled features [B, F] with `pre_logits`."""
        pooled = features.mean((2, 3))
        pooled = nn.functional.dropout(pooled, self.drop_rate, self.training)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, K] of images [B, C, H, W]."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()


@torch.no_grad()
def reset_he(model: nn.Module) -> None:
    """Initialize k x k convolutions from N(0, sqrt(2 / (k·k·out))) (He et al. 2015, eq. 14) and linear biases to 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def own_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Drop timm's arguments about pretrained weights, which our networks do not have.

    Raises:
        ValueError: pretrained weights are requested.
    """
    if arguments.pop("pretrained", False):
        raise ValueError("there are no pretrained weights for this network")
    return {key: value for key, value in arguments.items() if key not in _TIMM_ONLY}


_TIMM_ONLY = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
