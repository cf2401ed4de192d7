"""The order of the images in an epoch, a pure function of seed and epoch."""

import torch
from torch import Tensor

from agmax.core.rng import generator


def num_steps(num_images: int, batch_size: int) -> int:
    """Return the number of steps of an epoch; a smaller last batch counts unless it holds a single image."""
    full, rest = divmod(num_images, batch_size)
    return full + (rest > 1)


def shuffle_batches(num_images: int, batch_size: int, *, seed: int, epoch: int, start: int = 0) -> list[Tensor]:
    """Return the shuffled positions of each batch of an epoch, from batch `start` on; each int64 [N]."""
    order = torch.from_numpy(generator(seed, "order", epoch).permutation(num_images))
    return list(order.split(batch_size)[: num_steps(num_images, batch_size)][start:])


def same_class_views(labels: Tensor, epoch: int, *, num_views: int, seed: int) -> Tensor:
    """Return the image that each view shows, positions [N, V]: first the image itself, then others of its class.

    Each class is shuffled into a ring, and view v of an image shows the v-th image after it. So every image is shown
    equally often, and view v shows the image itself only in classes of at most v images.
    """
    positions = torch.arange(len(labels)).repeat(num_views, 1)
    rng = generator(seed, "same class", epoch)
    for label in labels.unique():
        ring = (labels == label).nonzero().flatten()
        ring = ring[torch.from_numpy(rng.permutation(len(ring)))]
        for view in range(1, num_views):
            positions[view, ring] = ring.roll(-view)
    return positions.T


def sequential_batches(num_images: int, batch_size: int) -> list[Tensor]:
    """Return the positions of each batch of all images, in order."""
    return list(torch.arange(num_images).split(batch_size))
