"""Wide residual networks for small images (Zagoruyko and Komodakis 2016), as AgMax and Soft Augmentation use them."""

from typing import Any

from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from agmax.models.blocks import ImageNetwork, own_arguments, reset_he


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after batch-norm and ReLU, with dropout between them.

    If stride or width change, the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, drop_rate: float, *, bias: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=bias)
        self.drop_rate = drop_rate
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=bias)
        changes = stride != 1 or in_channels != channels
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=bias) if changes else None

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output for feature maps [B, C, H, W]."""
        activated = functional.relu(self.bn1(images))
        residual = self.conv1(activated)
        residual = functional.relu(self.bn2(residual))
        residual = self.conv2(functional.dropout(residual, self.drop_rate, self.training))
        shortcut = images if self.shortcut is None else self.shortcut(activated)
        total: Tensor = residual + shortcut
        return total


class WideResNet(ImageNetwork):
    """Three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels.

    `bias` gives the convolutions a bias.

    Raises:
        ValueError: depth is not 6n + 4.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        num_blocks, rest = divmod(depth - 4, 6)
        if rest or num_blocks < 1 or width < 1:
            raise ValueError(f"WideResNet{depth}-{width}: the depth must be 6n + 4, such as 16, 28 or 40")
        self.conv = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=bias)
        channels = 16
        for stage in range(3):
            blocks = []
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(PreActivationBlock(channels, 16 * width * 2**stage, stride, drop_rate, bias=bias))
                channels = 16 * width * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(channels)
        self.set_head(channels, num_classes, drop_rate=0.0)  # dropout is inside the blocks

    def forward_features(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        for stage in range(1, 4):
            features = self.get_submodule(f"layer{stage}")(features)
        return functional.relu(self.bn(features))


@register_model
def agmax_wide_resnet(**arguments: Any) -> WideResNet:
    """Create a Wide ResNet; arguments depth and width."""
    return WideResNet(**own_arguments(arguments))


@register_model
def agmax_cifar_wide_resnet(**arguments: Any) -> WideResNet:
    """Create the Wide ResNet of Soft Augmentation's CIFAR experiments; arguments depth and width."""
    model = WideResNet(**own_arguments(arguments), bias=False)
    reset_he(model)
    return model
