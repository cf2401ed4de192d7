"""Pixel operations on color and brightness, and normalization."""

import numpy as np
import torch
from torch import Tensor


def invert(images: Tensor) -> Tensor:
    """Invert every level of uint8 images: v becomes 255 - v."""
    return images.bitwise_not()


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels of uint8 images [B, C, H, W] that are at least `threshold` [B]; above 255 nothing changes."""
    first = threshold.float().ceil().to(torch.int16).view(-1, 1, 1, 1)
    is_bright = (images >= first.clamp(0, 255).to(torch.uint8)) & (first <= 255)
    return torch.where(is_bright, images.bitwise_not(), images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` [B] of every level of uint8 images [B, C, H, W]; 8 bits change nothing."""
    mask = 256 - 2 ** (8 - bits.long())
    return images & mask.to(torch.uint8).view(-1, 1, 1, 1)


def auto_contrast(images: Tensor) -> Tensor:
    """Stretch every channel of uint8 images [B, C, H, W] to the range 0 to 255; a channel of one level does not change.

    The result equals torchvision's; it takes two thirds of the time.
    """
    low, high = images.amin(dim=(2, 3), keepdim=True).float(), images.amax(dim=(2, 3), keepdim=True).float()
    is_flat = high == low
    scale = ((high - low) * (1 / 255)).masked_fill_(is_flat, 1)
    return _to_uint8(images.float().sub_(low.masked_fill_(is_flat, 0)).div_(scale))


def equalize(images: Tensor) -> Tensor:
    """Equalize the histogram of every channel of uint8 images [B, C, H, W], with Pillow's integer arithmetic.

    The result equals torchvision's; it takes two thirds of the time.
    """
    index = images.flatten(2).long()
    counts = torch.zeros(*index.shape[:2], 256, dtype=torch.int32, device=images.device)
    counts.scatter_add_(2, index, counts.new_ones(1).expand_as(index))
    below = counts.cumsum(2, dtype=torch.int32) - counts
    highest = images.amax(dim=(2, 3)).long()[..., None]  # [B, C, 1]
    step = (index.shape[2] - counts.gather(2, highest)).div(255, rounding_mode="floor")
    spread = (below + step.div(2, rounding_mode="floor")).div(step.clamp(min=1), rounding_mode="floor").clamp_(0, 255)
    table = torch.where(step == 0, torch.arange(256, device=images.device), spread).to(torch.uint8)  # [B, C, 256]
    return table.gather(2, index).view_as(images)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend uint8 images [B, C, H, W] with black: a factor [B] of 0 gives black, 1 the image itself."""
    return _to_uint8(images.float().mul_(_per_image(factor)))


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend uint8 images [B, C, H, W] with their mean gray level: a factor [B] of 0 gives gray, 1 the image itself."""
    levels = images.float()
    grays = gray(levels)
    grays.copy_(grays.mean(dim=(1, 2, 3), keepdim=True))  # addcmul_ is slow if both of its factors are broadcast
    return _to_uint8(levels.mul_(_per_image(factor)).addcmul_(grays, _per_image(1 - factor)))


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend uint8 images [B, C, H, W] with their gray version: a factor [B] of 0 gives gray, 1 the image itself."""
    if images.shape[1] == 1:
        return images
    levels = images.float()
    grays = gray(levels)
    return _to_uint8(levels.mul_(_per_image(factor)).addcmul_(grays, _per_image(1 - factor)))


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend uint8 images [B, C, H, W] with a blurred version: a factor [B] of 0 gives the blur, 1 the image itself.

    The blur is Pillow's 3x3 kernel: weight 5 for the pixel, 1 for each of its eight neighbours. The pixels at the
    border do not change, nor do images with a side under 3 pixels.
    """
    if min(images.shape[-2:]) <= 2:
        return images
    levels = images.to(torch.int16)
    rows = levels[..., :-2, :] + levels[..., 1:-1, :]
    rows += levels[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1]
    total += rows[..., 2:]
    total += levels[..., 1:-1, 1:-1] * 4
    sharp = images.float()
    inner = sharp[..., 1:-1, 1:-1]
    blurred = total.float().div_(13).round_()
    inner.addcmul_(blurred.sub_(inner), _per_image(1 - factor))
    return _to_uint8(sharp)


def gray(levels: Tensor) -> Tensor:
    """Return the gray levels [B, 1, H, W] of float images from 0 to 255, rounded down (ITU-R 601)."""
    if levels.shape[1] == 1:
        return levels.clone()
    red, green, blue = levels.split(1, dim=1)
    grays: Tensor = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()
    return grays


def _per_image(numbers: Tensor) -> Tensor:
    return numbers.float().view(-1, 1, 1, 1)


def _to_uint8(levels: Tensor) -> Tensor:
    """Clamp float levels to 0 to 255 and truncate them; converting by way of int16 takes half the time."""
    return levels.clamp_(0, 255).to(torch.int16).to(torch.uint8)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalize uint8 images [B, C, H, W] to float32 by mean and std [C], given on the scale 0 to 1.

    The operations are torchvision's ToTensor and Normalize in the same order, so the bits are equal. Gray images are
    repeated if `mean` has three numbers.
    """
    floats = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    if floats.shape[1] == 1 and len(mean) == 3:
        floats = floats.repeat(1, 3, 1, 1)
    return floats.sub_(mean[:, None, None]).div_(std[:, None, None])


PCA_LIGHTING = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], dtype=torch.float64
) * torch.tensor([0.2175, 0.0188, 0.0045], dtype=torch.float64)
"""Principal components of ImageNet's RGB values, each times its standard deviation (Krizhevsky et al. 2012, 4.1)."""


def add_pca_lighting_(images: Tensor, amounts: Tensor, std: Tensor) -> Tensor:
    """Apply PCA lighting with amounts [B, 3] to normalized images [B, 3, H, W], in place, and return them.

    `std` [3] is the standard deviation that the images were divided by. Amounts and std are on the CPU, so that a GPU
    gets one small copy and does not wait.
    """
    shifts = ((amounts.double() @ PCA_LIGHTING.T).float() / std).to(images.device, non_blocking=True)  # [B, 3]
    return images.add_(shifts[:, :, None, None])


def pca_lighting_amounts(num_images: int, *, std: float, rng: np.random.Generator) -> Tensor:
    """Draw the amounts [B, 3] for `add_pca_lighting_` from N(0, std)."""
    return torch.from_numpy(rng.normal(0, std, size=(num_images, 3)))
