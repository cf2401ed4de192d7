"""Pyramidal residual networks for small images (Han et al. 2017), with ShakeDrop (Yamada et al. 2019)."""

from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from agmax.models.blocks import ImageNetwork, own_arguments, reset_he

STEM_CHANNELS, EXPANSION = 16, 4


class ShakeDrop(nn.Module):
    """Scale a residual branch randomly (Yamada et al. 2019, table 1, alpha in [-1, 1], beta in [0, 1]).

    With `probability`, drawn once for the batch, the branch of each image is multiplied by its own alpha, and the
    gradient by its own beta. In evaluation the branch is multiplied by the mean factor, 1 - probability. With several
    devices each draws for its own images, from equal seeds.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        """Return the scaled branch [B, C, H, W]."""
        if not self.training:
            return branch * (1 - self.probability)
        happens = torch.rand((), device=branch.device) < self.probability
        factors = torch.rand(2, len(branch), 1, 1, 1, device=branch.device, dtype=branch.dtype)
        alpha, beta = factors[0] * 2 - 1, factors[1]
        scaled = branch * beta + branch.detach() * (alpha - beta)  # alpha forward, beta backward
        return torch.where(happens, scaled, branch)

    def extra_repr(self) -> str:
        return f"probability={self.probability:.4g}"


class PyramidBlock(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions between batch-norms, a ReLU before all but the first.

    The shortcut has no weights: it is average-pooled if the stride is 2, and padded with channels of zeros.
    """

    def __init__(self, in_channels: int, width: int, stride: int, drop_probability: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, EXPANSION * width, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(EXPANSION * width)
        self.stride = stride
        self.shake_drop = ShakeDrop(drop_probability) if drop_probability else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output for feature maps [B, C, H, W]."""
        branch = self.conv1(self.bn1(images))
        branch = self.conv2(functional.relu(self.bn2(branch)))
        branch = self.conv3(functional.relu(self.bn3(branch)))
        branch = self.shake_drop(self.bn4(branch))
        if self.stride == 2:
            images = functional.avg_pool2d(images, 2, ceil_mode=True)
        missing = branch.shape[1] - images.shape[1]
        total: Tensor = branch + functional.pad(images, (0, 0, 0, 0, 0, missing))
        return total


class PyramidNet(ImageNetwork):
    """Three stages of (depth - 2) / 9 bottleneck blocks, whose widths grow linearly by `alpha` in total.

    ShakeDrop's probability grows linearly up to `shake_drop` in the last block; 0 leaves it out.

    Raises:
        ValueError: depth is not 9n + 2, or a number is out of range.
    """

    def __init__(
        self,
        depth: int,
        alpha: float,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        shake_drop: float = 0.5,
    ) -> None:
        super().__init__()
        num_blocks, rest = divmod(depth - 2, 9)
        if rest or num_blocks < 1:
            raise ValueError(f"PyramidNet of depth {depth}: the depth must be 9n + 2, such as 110, 164 or 272")
        if alpha <= 0 or not 0 <= shake_drop < 1:
            raise ValueError(f"alpha={alpha:g}, shake_drop={shake_drop:g}: alpha must be above 0, shake_drop in [0, 1)")
        total = 3 * num_blocks
        self.conv = nn.Conv2d(in_chans, STEM_CHANNELS, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        channels = STEM_CHANNELS
        for stage in range(3):
            blocks = []
            for index in range(num_blocks):
                number = stage * num_blocks + index + 1  # of the block, from 1
                width = round(STEM_CHANNELS + alpha * number / total)
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(PyramidBlock(channels, width, stride, shake_drop * number / total))
                channels = EXPANSION * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.bn2 = nn.BatchNorm2d(channels)
        self.set_head(channels, num_classes, drop_rate)
        reset_he(self)

    def forward_features(self, images: Tensor) -> Tensor:
        features = self.bn1(self.conv(images))
        for stage in range(1, 4):
            features = self.get_submodule(f"layer{stage}")(features)
        return functional.relu(self.bn2(features))


@register_model
def agmax_pyramid_net(**arguments: Any) -> PyramidNet:
    """Create a PyramidNet; arguments depth, alpha and shake_drop."""
    return PyramidNet(**own_arguments(arguments))
