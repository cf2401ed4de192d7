"""A data set that lives whole in memory as uint8: no workers, no decoding in the loop."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from agmax.core.batch import RawBatch
from agmax.data.splits import InMemoryDataset, indices_of


class InMemoryLoader:
    """Deliver samples of images that are already on the device.

    `views` takes an epoch and returns which image each view of an image shows, positions [N, V]; without it the views
    are left to the augmentation.
    """

    def __init__(
        self,
        data: InMemoryDataset,
        *,
        image_size: int,
        device: torch.device,
        views: Callable[[int], Tensor] | None = None,
    ) -> None:
        self.class_names = data.class_names
        self.labels = data.labels
        self._images = resize(data.images, image_size).to(device)
        self._labels = data.labels.to(device)
        self._indices = indices_of(data)
        self._views = views

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batches: list[Tensor], *, epoch: int) -> Iterator[RawBatch]:
        """Deliver a sample for each tensor of positions, in order; every epoch has the same pixels."""
        shown = None if self._views is None else self._views(epoch).to(self._images.device)
        for positions in batches:
            chosen = positions.to(self._images.device, non_blocking=True)
            images = self._images.index_select(0, chosen) if shown is None else self._images[shown[chosen]]
            yield RawBatch(images, self._labels[chosen], self._indices[positions])


def resize(images: Tensor, size: int) -> Tensor:
    """Bring uint8 images [N, C, H, W] to squares of `size` pixels, bilinear, once and for all epochs."""
    if images.shape[-2:] == (size, size):
        return images
    chunks = images.split(4096)
    return torch.cat([functional.resize(chunk, [size, size], antialias=True) for chunk in chunks])
