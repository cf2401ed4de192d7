"""The loader of data sets that are kept in memory as uint8, without workers and decoding."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from agmax.core.batch import RawBatch
from agmax.data.splits import InMemoryDataset, indices_of


class InMemoryLoader:
    """A loader of images that are already on the device.

    `views` maps an epoch to the image that each view of an image shows, positions [N, V]. Without it the augmentation
    creates the views.
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
        """Yield a batch for each tensor of positions, in order; every epoch has the same pixels."""
        views = None if self._views is None else self._views(epoch).to(self._images.device)
        for positions in batches:
            chosen = positions.to(self._images.device, non_blocking=True)
            images = self._images.index_select(0, chosen) if views is None else self._images[views[chosen]]
            yield RawBatch(images, self._labels[chosen], self._indices[positions])


def resize(images: Tensor, size: int) -> Tensor:
    """Resize uint8 images [N, C, H, W] to squares of `size` pixels, bilinear with antialiasing."""
    if images.shape[-2:] == (size, size):
        return images
    chunks = images.split(4096)
    return torch.cat([functional.resize(chunk, [size, size], antialias=True) for chunk in chunks])
