"""A data set of files: worker processes decode each file once and cut the views out of it."""

import signal
import warnings
from collections.abc import Iterator

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import RandomResizedCrop, functional

from agmax.batch import Sample
from agmax.data.split import Files, indices_of
from agmax.errors import DataError
from agmax.randomness import seed_for

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises on a file that is no image, damaged or far too large."""

RESIZE_MARGIN = 32
"""Pixels by which the shorter side is larger than the centre crop (AgMax, its test transform)."""


class Streaming:
    """Deliver samples of images that are decoded as they are needed."""

    def __init__(
        self,
        data: Files,
        *,
        image_size: int,
        channels: int,
        num_workers: int,
        pin_memory: bool,
        random_resized: tuple[list[float], list[float]] | None = None,
        num_views: int = 1,
        seed: int = 0,
    ) -> None:
        """With `random_resized` (scale, ratio) each view is its own crop, else all share one centre crop."""
        self.class_names = data.class_names
        self.labels = data.labels
        self._order = _Order()
        crop = (
            RandomResizedCrop([image_size, image_size], scale=random_resized[0], ratio=random_resized[1])
            if random_resized
            else None
        )
        self._loader = DataLoader(
            _Views(data, image_size=image_size, channels=channels, crop=crop, num_views=num_views, seed=seed),
            batch_sampler=self._order,
            num_workers=num_workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=_ignore_interrupt,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batches: list[Tensor], *, epoch: int) -> Iterator[Sample]:
        """Deliver a sample for each tensor of positions, in order; the crops depend on the epoch."""
        self._order.keys = [[(epoch, position) for position in positions.tolist()] for positions in batches]
        for sample in self._loader:
            if isinstance(sample, DataError):
                try:
                    raise sample
                finally:
                    del sample  # its traceback holds this frame: in a circle, the workers would stay
            yield sample


class _Order:
    """The batch sampler: the epoch travels in the key, so that workers need not be started anew."""

    def __init__(self) -> None:
        self.keys: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


_Item = tuple[Tensor, int, int] | DataError


class _Views(Dataset[_Item]):
    """(epoch, position) -> uint8 [V, C, H, W] or [C, H, W], label, index; or what is wrong with the file."""

    def __init__(
        self, data: Files, *, image_size: int, channels: int, crop: RandomResizedCrop | None, num_views: int, seed: int
    ) -> None:
        self.paths, self.labels, self.indices = data.paths, data.labels, indices_of(data)
        self.image_size, self.channels, self.crop = image_size, channels, crop
        self.num_views, self.seed = num_views, seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> _Item:
        epoch, position = key
        try:
            image = decoded(self.paths[position], self.channels)
        except DataError as error:  # handed over as a value: an exception would lose its type on the way
            return error
        views = self._cut(image, epoch, position)
        return views, int(self.labels[position]), int(self.indices[position])

    def _cut(self, image: Image.Image, epoch: int, position: int) -> Tensor:
        if self.crop is None:
            centre: Tensor = functional.pil_to_tensor(centre_crop(image, self.image_size))
            return centre
        views = []
        for view in range(self.num_views):
            torch.default_generator.manual_seed(seed_for(self.seed, "sample", epoch, position, view))
            views.append(functional.pil_to_tensor(self.crop(image)))
        return torch.stack(views)


def decoded(path: str, channels: int) -> Image.Image:
    """Decode a file to RGB (3 channels) or gray (1).

    Raises:
        DataError: the file is no image, damaged, or of more pixels than Pillow's Image.MAX_IMAGE_PIXELS.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.convert("RGB" if channels == 3 else "L")
    except UNREADABLE as error:
        raise DataError("image cannot be read", where=path, why=str(error) or type(error).__name__) from None


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to size + 32 and cut the centre out, as torchvision does it with Pillow, bilinear."""
    resized = functional.resize(image, [size + RESIZE_MARGIN])
    centre: Image.Image = functional.center_crop(resized, [size, size])
    return centre


def _collate(items: list[_Item]) -> Sample | DataError:
    good: list[tuple[Tensor, int, int]] = []
    for item in items:
        if isinstance(item, DataError):
            return item
        good.append(item)
    images, labels, indices = zip(*good, strict=True)
    return Sample(torch.stack(images), torch.tensor(labels), torch.tensor(indices))


def _ignore_interrupt(worker: int) -> None:
    """Let the main process alone answer Ctrl-C, which reaches the workers too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
