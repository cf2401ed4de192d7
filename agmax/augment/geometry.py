"""Geometric operations on batches, with separate parameters for each image."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def crop(images: Tensor, top: Tensor, left: Tensor, *, padding: int) -> Tensor:
    """Pad each image [B, C, H, W] with `padding` black pixels on all sides and crop it to its original size.

    `top` and `left` [B] are the corner of the crop in the padded image, from 0 to 2 * padding.
    """
    height, width = images.shape[-2:]
    padded = functional.pad(images.contiguous(), (padding, padding, padding, padding))
    rows = top[:, None] + torch.arange(height, device=images.device)  # [B, H]
    return _slices(padded, rows, left, width)


def crop_offsets(num_images: int, *, padding: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw the corners [B], [B] for `crop`, uniform over all positions."""
    corners = torch.from_numpy(rng.integers(0, 2 * padding + 1, size=(2, num_images)))
    return corners[0], corners[1]


def shifted_crop(images: Tensor, down: Tensor, right: Tensor, *, background: Tensor) -> Tensor:
    """Crop each image [B, C, H, W] to its own size, off center by `down` and `right` [B] pixels.

    Outside of the image the crop is filled with `background` [B, C].
    """
    height, width = images.shape[-2:]
    y = down[:, None] + torch.arange(height, device=images.device)  # [B, H], rows of the image
    x = right[:, None] + torch.arange(width, device=images.device)
    padded = functional.pad(images.reshape(-1), (width, width))  # a slice may begin before its row or end after it
    rows = padded[width:-width].view_as(images)
    pixels = _slices(rows, y.clamp(0, height - 1), right.clamp(-width, width), width)
    inside = ((y >= 0) & (y < height))[:, None, :, None] & ((x >= 0) & (x < width))[:, None, None, :]
    return torch.where(inside, pixels, background[:, :, None, None])


def _slices(images: Tensor, rows: Tensor, first: Tensor, width: int) -> Tensor:
    """Return `rows` [B, H'] of each image [B, C, H, W], `width` pixels of each from column `first` [B] on.

    Each row is one contiguous slice of memory, which is several times as fast as indexing pixels. `first` may be
    outside the row if the storage extends that far.
    """
    count, channels, height, stride = images.shape
    planes = torch.arange(count * channels, device=images.device).view(count, channels, 1) * height
    start = (planes + rows[:, None]) * stride + first[:, None, None]  # [B, C, H']
    offset = images.storage_offset()
    slices = images.as_strided((images.untyped_storage().nbytes() // images.itemsize - width + 1, width), (1, 1), 0)
    return slices.index_select(0, start.flatten() + offset).view(count, channels, rows.shape[1], width)


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Flip those of the images [B, C, H, W] that are `chosen` [B] (bool), left to right."""
    count = len(images)
    both = torch.cat([images, images.flip(-1)])
    return both.index_select(0, torch.arange(count, device=images.device) + count * chosen)


def bernoulli(num_images: int, *, p: float = 0.5, rng: np.random.Generator) -> Tensor:
    """Draw a bool for each image [B], true with probability p."""
    return torch.from_numpy(rng.random(num_images) < p)


def shear_x(images: Tensor, amount: Tensor) -> Tensor:
    """Shift each row of uint8 images [B, C, H, W] left by `amount` [B] pixels times its number, from the top."""
    return warp(images, _matrices(1.0, amount, amount * (images.shape[-2] / 2), 0.0, 1.0, 0.0))


def shear_y(images: Tensor, amount: Tensor) -> Tensor:
    """Shift each column of uint8 images [B, C, H, W] up by `amount` [B] pixels times its number, from the left."""
    return warp(images, _matrices(1.0, 0.0, 0.0, amount, 1.0, amount * (images.shape[-1] / 2)))


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """Shift images [B, C, H, W] right by integer `pixels` [B]."""
    right = pixels.long()
    return shifted_crop(images, torch.zeros_like(right), -right, background=images.new_zeros(1, 1))


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Shift images [B, C, H, W] down by integer `pixels` [B]."""
    down = pixels.long()
    return shifted_crop(images, -down, torch.zeros_like(down), background=images.new_zeros(1, 1))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate uint8 images [B, C, H, W] about their center, counter-clockwise, by `degrees` [B]."""
    angle = torch.deg2rad(degrees % 360)
    return warp(images, _matrices(angle.cos(), -angle.sin(), 0.0, angle.sin(), angle.cos(), 0.0))


def _matrices(*entries: Tensor | float) -> Tensor:
    """Stack the entries of 2x3 matrices, in row-major order, to [B, 2, 3]."""
    like = next(entry for entry in entries if isinstance(entry, Tensor))
    columns = [entry if isinstance(entry, Tensor) else torch.full_like(like, entry) for entry in entries]
    return torch.stack(columns, dim=-1).view(-1, 2, 3)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Warp uint8 images [B, C, H, W] by affine matrices [B, 2, 3], nearest neighbour, black outside of the image.

    A matrix maps a position of the result, in pixels from the center, to a position of the image. The arithmetic is
    that of torchvision's kernel for one image, so the same pixels are chosen.
    """
    height, width = images.shape[-2:]
    positions = torch.ones(height, width, 3, device=images.device)
    positions[..., 0] = torch.linspace((1.0 - width) / 2, (width - 1.0) / 2, width, device=images.device)
    positions[..., 1] = torch.linspace((1.0 - height) / 2, (height - 1.0) / 2, height, device=images.device)[:, None]
    # new_full and cat need no copy from the CPU, which a GPU would wait for
    half = torch.cat([images.new_full((1,), side / 2, dtype=torch.float32) for side in (width, height)])
    grid = positions.view(1, -1, 3).expand(len(images), -1, -1).bmm(matrices.float().transpose(1, 2) / half)
    grid = grid.view(len(images), height, width, 2)
    warped = functional.grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return warped.to(torch.uint8)
