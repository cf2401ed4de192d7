"""Change the values of pixels, not their places."""

import numpy as np
import torch
from torch import Tensor


def invert(images: Tensor) -> Tensor:
    """Turn every level of uint8 images around."""
    return images.bitwise_not()


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels from `threshold` [B] on, of uint8 images [B, C, H, W]; above 255 nothing changes."""
    first = threshold.float().ceil().to(torch.int16).view(-1, 1, 1, 1)
    is_bright = (images >= first.clamp(0, 255).to(torch.uint8)) & (first <= 255)
    return torch.where(is_bright, images.bitwise_not(), images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` [B] of every level of uint8 images [B, C, H, W]; 8 change nothing."""
    kept = 256 - 2 ** (8 - bits.long())
    return images & kept.to(torch.uint8).view(-1, 1, 1, 1)


def auto_contrast(images: Tensor) -> Tensor:
    """Stretch every channel of uint8 images [B, C, H, W] from black to full; a channel of one level stays.

    Torchvision's function gives the same; this one takes two thirds of its time.
    """
    low, high = images.amin(dim=(2, 3), keepdim=True).float(), images.amax(dim=(2, 3), keepdim=True).float()
    is_flat = high == low
    scale = ((high - low) * (1 / 255)).masked_fill_(is_flat, 1)
    return _to_uint8(images.float().sub_(low.masked_fill_(is_flat, 0)).div_(scale))


def equalize(images: Tensor) -> Tensor:
    """Spread the levels of every channel of uint8 images [B, C, H, W] until all are about equally frequent.

    In the whole numbers of Pillow's rule. Torchvision's function gives the same; this one takes two thirds of its time.
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
    """Blend uint8 images [B, C, H, W] with black: a factor [B] of 0 is black, 1 the image itself."""
    return _to_uint8(images.float().mul_(_per_image(factor)))


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend uint8 images [B, C, H, W] with their mean gray: a factor [B] of 0 is that gray, 1 the image itself."""
    levels = images.float()
    grays = gray(levels)
    grays.copy_(grays.mean(dim=(1, 2, 3), keepdim=True))  # addcmul_ is slow where both of its factors are broadcast
    return _to_uint8(levels.mul_(_per_image(factor)).addcmul_(grays, _per_image(1 - factor)))


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend uint8 images [B, C, H, W] with their own gray: a factor [B] of 0 is gray, 1 the image itself."""
    if images.shape[1] == 1:
        return images
    levels = images.float()
    grays = gray(levels)
    return _to_uint8(levels.mul_(_per_image(factor)).addcmul_(grays, _per_image(1 - factor)))


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend uint8 images [B, C, H, W] with their smoothed selves: a factor [B] of 0 is blurred, 1 the image itself.

    The smoothing is Pillow's: the pixel counts five times, its eight neighbours once. The outermost pixels stay, and
    images of fewer than 3 pixels a side.
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
    """Return the gray levels [B, 1, H, W] of float images from 0 to 255, in whole numbers (ITU-R 601)."""
    if levels.shape[1] == 1:
        return levels.clone()
    red, green, blue = levels.split(1, dim=1)
    grays: Tensor = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()
    return grays


def _per_image(numbers: Tensor) -> Tensor:
    return numbers.float().view(-1, 1, 1, 1)


def _to_uint8(levels: Tensor) -> Tensor:
    """Cut levels to 0 to 255 and off at the point; the way over int16 takes half the time."""
    return levels.clamp_(0, 255).to(torch.int16).to(torch.uint8)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bring uint8 images [B, C, H, W] to float32 of mean 0 and deviation 1; mean and std are [C] on the scale 0 to 1.

    The operations are those of torchvision's ToTensor and Normalize in their order, so the bits are the same.
    Gray images are repeated where mean has three numbers.
    """
    floats = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    if floats.shape[1] == 1 and len(mean) == 3:
        floats = floats.repeat(1, 3, 1, 1)
    return floats.sub_(mean[:, None, None]).div_(std[:, None, None])


PCA_LIGHTING = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], dtype=torch.float64
) * torch.tensor([0.2175, 0.0188, 0.0045], dtype=torch.float64)
"""Principal directions of ImageNet's colours, each times its standard deviation (Krizhevsky et al. 2012, 4.1)."""


def add_pca_lighting_(images: Tensor, amounts: Tensor, std: Tensor) -> Tensor:
    """Add light along the principal colours of ImageNet, by amounts [B, 3], to normalised images [B, 3, H, W].

    In place; the images are returned. `std` [3] is the deviation they were divided by. Amounts and std are on the CPU,
    so that a GPU gets one small copy and waits for none.
    """
    light = ((amounts.double() @ PCA_LIGHTING.T).float() / std).to(images.device, non_blocking=True)  # [B, 3]
    return images.add_(light[:, :, None, None])


def pca_lighting_amounts(num_images: int, *, std: float, rng: np.random.Generator) -> Tensor:
    """Draw the amounts [B, 3] for `add_light_` from N(0, std)."""
    return torch.from_numpy(rng.normal(0, std, size=(num_images, 3)))
