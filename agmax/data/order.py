"""In which order an epoch goes through the images: a pure function of seed and epoch."""

import torch
from torch import Tensor

from agmax.randomness import generator


def num_steps(num_images: int, batch_size: int) -> int:
    """Return the steps of an epoch: the short last batch is kept, unless it holds a single image."""
    full, rest = divmod(num_images, batch_size)
    return full + (rest > 1)


def shuffled(num_images: int, batch_size: int, *, seed: int, epoch: int, start: int = 0) -> list[Tensor]:
    """Return the positions of each batch of an epoch, from batch `start` on; each int64 [N]."""
    order = torch.from_numpy(generator(seed, "order", epoch).permutation(num_images))
    return list(order.split(batch_size)[: num_steps(num_images, batch_size)][start:])


def in_order(num_images: int, batch_size: int) -> list[Tensor]:
    """Return the positions of each batch when every image is seen once, in order."""
    return list(torch.arange(num_images).split(batch_size))
