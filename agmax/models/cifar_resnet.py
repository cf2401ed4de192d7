"""Residual networks for small images: a 3x3 stem without pooling, then stages that halve the side (He et al. 2016)."""

from collections.abc import Sequence
from typing import Any

from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from agmax.models.blocks import ImageNetwork, own_arguments


def _norm_conv(in_channels: int, channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, size, stride, size // 2, bias=False)


class ResidualBlock(nn.Module):
    """Convolutions with batch-norm, a ReLU after each but the last, and a 1x1 projection if the shape changes."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        channels = width * self.expansion
        for number, (conv, norm) in enumerate(self._layers(in_channels, width, stride), start=1):
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", norm)
        self.num_layers = number
        changes = stride != 1 or in_channels != channels
        projection = [_norm_conv(in_channels, channels, 1, stride), nn.BatchNorm2d(channels)] if changes else []
        self.shortcut = nn.Sequential(*projection)

    def _layers(self, in_channels: int, width: int, stride: int) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return [
            (_norm_conv(in_channels, width, 3, stride), nn.BatchNorm2d(width)),
            (_norm_conv(width, width, 3), nn.BatchNorm2d(width)),
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output for feature maps [B, C, H, W]."""
        features = images
        for number in range(1, self.num_layers + 1):
            features = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(features))
            if number < self.num_layers:
                features = functional.relu(features)
        return functional.relu(features + self.shortcut(images))

    def zero_init_last(self) -> None:
        """Set the weight of the last batch-norm to 0, so that the block starts as the identity."""
        nn.init.zeros_(self.get_submodule(f"bn{self.num_layers}").weight)  # type: ignore[arg-type]


class BottleneckBlock(ResidualBlock):
    """1x1, 3x3 (with the stride) and 1x1 convolutions, four times as wide at the end."""

    expansion = 4

    def _layers(self, in_channels: int, width: int, stride: int) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return [
            (_norm_conv(in_channels, width, 1), nn.BatchNorm2d(width)),
            (_norm_conv(width, width, 3, stride), nn.BatchNorm2d(width)),
            (_norm_conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)),
        ]


class CifarResNet(ImageNetwork):
    """Stages of `depths` blocks with `widths` channels; every stage but the first halves the side."""

    def __init__(
        self,
        block: type[ResidualBlock],
        depths: Sequence[int],
        widths: Sequence[int],
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        channels = widths[0]
        self.conv1 = _norm_conv(in_chans, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        stages = []
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for index in range(depth):
                blocks.append(block(channels, width, stride=2 if stage > 0 and index == 0 else 1))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
            self.add_module(f"layer{stage + 1}", stages[-1])
        self.num_stages = len(stages)
        self.set_head(channels, num_classes, drop_rate)

    def forward_features(self, images: Tensor) -> Tensor:
        features = functional.relu(self.bn1(self.conv1(images)))
        for stage in range(1, self.num_stages + 1):
            features = self.get_submodule(f"layer{stage}")(features)
        return features


def _small(depth: int, arguments: dict[str, Any]) -> CifarResNet:
    num_blocks = (depth - 2) // 6
    return CifarResNet(ResidualBlock, [num_blocks] * 3, [16, 32, 64], **own_arguments(arguments))


def _wide(block: type[ResidualBlock], depths: Sequence[int], arguments: dict[str, Any]) -> CifarResNet:
    return CifarResNet(block, depths, [64, 128, 256, 512], **own_arguments(arguments))


@register_model
def agmax_resnet8(**arguments: Any) -> CifarResNet:
    """Create a ResNet of 8 layers."""
    return _small(8, arguments)


@register_model
def agmax_resnet20(**arguments: Any) -> CifarResNet:
    """Create a ResNet of 20 layers."""
    return _small(20, arguments)


@register_model
def agmax_cifar_resnet18(**arguments: Any) -> CifarResNet:
    """Create the ResNet-18 of Soft Augmentation's CIFAR experiments."""
    return _wide(ResidualBlock, [2, 2, 2, 2], arguments)


@register_model
def agmax_cifar_resnet50(**arguments: Any) -> CifarResNet:
    """Create the ResNet-50 of Soft Augmentation's CIFAR experiments."""
    return _wide(BottleneckBlock, [3, 4, 6, 3], arguments)


@register_model
def agmax_cifar_resnet101(**arguments: Any) -> CifarResNet:
    """Create the ResNet-101 of Soft Augmentation's CIFAR experiments."""
    return _wide(BottleneckBlock, [3, 4, 23, 3], arguments)
