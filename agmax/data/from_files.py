"""The loader of image files: worker processes decode each file once and crop its views."""

import signal
import threading
import traceback
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms.v2 import RandomResizedCrop

from agmax.core.batch import RawBatch
from agmax.core.errors import DataError, ResourceError
from agmax.core.logs import log
from agmax.core.rng import seed_for
from agmax.core.signals import outlive_stop_signals
from agmax.data.decode import (
    Box,
    UnreadableError,
    center_crop,
    decode_image,
    decode_pixels,
    max_shrink,
    resized_crop,
    shrinkable_size,
    to_tensor,
)
from agmax.data.splits import FileDataset, indices_of

MAX_UNREADABLE_FRACTION = 0.01
"""Maximum fraction of the images that may be skipped; one image always may."""

NUM_EXAMPLES = 5
"""Number of files that an error names as examples."""


class FileLoader:
    """A loader that decodes images when they are needed."""

    def __init__(
        self,
        data: FileDataset,
        *,
        image_size: int,
        channels: int,
        num_workers: int,
        pin_memory: bool,
        random_resized: tuple[list[float], list[float]] | None = None,
        scaled_decoding: bool = False,
        exif_rotation: bool = True,
        skip_bad_images: bool = False,
        num_views: int = 1,
        seed: int = 0,
    ) -> None:
        """With `random_resized` (scale, ratio) each view is a separate crop, otherwise all share one center crop.

        `scaled_decoding` lets the decoder shrink a JPEG if its crops stay large enough. `skip_bad_images` leaves
        unreadable images out of their batches, up to MAX_UNREADABLE_FRACTION.
        """
        self.class_names = data.class_names
        self.labels = data.labels
        self._order = _BatchOrder()
        self._skip_bad_images, self._bad_paths = skip_bad_images, list[str]()
        crop = (
            RandomResizedCrop([image_size, image_size], scale=random_resized[0], ratio=random_resized[1])
            if random_resized
            else None
        )
        self._loader = DataLoader(
            _ViewsDataset(
                data,
                image_size=image_size,
                channels=channels,
                crop=crop,
                scaled_decoding=scaled_decoding,
                exif_rotation=exif_rotation,
                num_views=num_views,
                seed=seed,
            ),
            batch_sampler=self._order,
            num_workers=num_workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=_leave_stop_signals_to_the_parent,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batches: list[Tensor], *, epoch: int) -> Iterator[RawBatch]:
        """Yield a batch for each tensor of positions, in order; the crops depend on the epoch.

        Raises:
            DataError: an image cannot be read, or too many if such images are skipped.
            ResourceError: a worker died, or the memory is full.
        """
        self._order.keys = [[(epoch, position) for position in positions.tolist()] for positions in batches]
        try:
            results = iter(self._loader)
            _remove_worker_signal_handler()
            for batch, bad in results:
                self._count_bad_images(bad)
                if batch is None:
                    why = f"none of its {len(bad)} images can be read"
                    raise DataError("batch without images", where=bad[0].path, why=why, remedy="Replace or remove them")
                yield batch
        except MemoryError:
            what, remedy = "the memory is full", "Lower train.num_workers or train.batch_size"
            raise ResourceError(what, why="while reading images", remedy=remedy) from None
        except RuntimeError as error:
            if "Too many open files" in str(error):
                remedy = "Raise the limit (ulimit -n) or lower train.num_workers"
                why = "the data workers pass their tensors as open files"
                raise ResourceError("too many open files", why=why, remedy=remedy) from None
            if not any(text in str(error) for text in ("DataLoader worker (pid", "Pin memory thread exited")):
                raise
            what = "a data worker was killed (often out of memory)"
            raise ResourceError(what, why=str(error), remedy="Lower train.num_workers") from None

    def _count_bad_images(self, bad: list["_BadImage"]) -> None:
        """Count the skipped images and log each once; raise an error that cannot be skipped."""
        for image in bad:
            if not (self._skip_bad_images and image.is_unreadable):
                raise image.error()
            if image.path not in self._bad_paths:
                self._bad_paths.append(image.path)
                log.warning("skipped: %s", image.message)
        if len(self._bad_paths) > max(1, MAX_UNREADABLE_FRACTION * len(self)):
            examples = ", ".join(self._bad_paths[:NUM_EXAMPLES])
            raise DataError(
                "too many images cannot be read",
                where=f"{len(self._bad_paths)} of {len(self)} so far",
                why=f"at most {MAX_UNREADABLE_FRACTION:.0%} are skipped, first {examples}",
                remedy="Replace or remove them",
            )


class _BatchOrder:
    """The batch sampler: each key holds the epoch, so that the workers need not be restarted for a new one."""

    def __init__(self) -> None:
        self.keys: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Item(NamedTuple):
    """The views of an image."""

    pixels: Tensor  # uint8 [V, C, H, W] or [C, H, W]
    label: int
    image_index: int  # its position in the files of the split


class _BadImage(NamedTuple):
    """The error of an image, as text: an exception would lose its type on the way from a worker."""

    path: str
    message: str
    is_unreadable: bool
    raised_in: str

    def error(self) -> DataError:
        remedy = "Replace or remove it; dataset.on_bad_image=skip leaves such files out of a training"
        error = DataError(self.message, remedy=remedy if self.is_unreadable else "")
        error.add_note(self.raised_in)
        return error


class _ViewsDataset(Dataset[_Item | _BadImage]):
    """A data set that maps (epoch, position) to the views of an image, or its error."""

    def __init__(
        self,
        data: FileDataset,
        *,
        image_size: int,
        channels: int,
        crop: RandomResizedCrop | None,
        scaled_decoding: bool,
        exif_rotation: bool,
        num_views: int,
        seed: int,
    ) -> None:
        self.paths, self.labels, self.indices = data.paths, data.labels, indices_of(data)
        self.image_size, self.channels, self.crop = image_size, channels, crop
        self.scaled_decoding, self.exif_rotation = scaled_decoding, exif_rotation
        self.num_views, self.seed = num_views, seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> _Item | _BadImage:
        epoch, position = key
        path = self.paths[position]
        try:
            pixels = self._center(path) if self.crop is None else self._crops(path, epoch, position)
        except UnreadableError as error:
            return _BadImage(path, str(error), True, _location(error.__context__ or error))
        except MemoryError:
            raise
        except Exception as error:
            why = f"crop raised {type(error).__name__}: {error}"
            text = str(DataError("image cannot be cropped", where=path, why=why))
            return _BadImage(path, text, False, _location(error))
        return _Item(pixels, int(self.labels[position]), int(self.indices[position]))

    def _center(self, path: str) -> Tensor:
        """Return the center crop [C, H, W], with the same pixels as in an evaluation."""
        image = decode_image(path, self.channels, exif_rotation=self.exif_rotation)
        return to_tensor(center_crop(image, self.image_size))

    def _crops(self, path: str, epoch: int, position: int) -> Tensor:
        """Return the random crops [V, C, H, W]."""
        shrink, boxes = 1, list[Box]()
        size = shrinkable_size(path, exif_rotation=self.exif_rotation) if self.scaled_decoding else None
        if size is not None:
            boxes = self._boxes(*size, epoch, position)
            shrink = max_shrink(boxes, self.image_size)
        pixels = decode_pixels(path, self.channels, exif_rotation=self.exif_rotation, shrink=shrink)
        height, width = pixels.shape[-2:]
        views = torch.empty((self.num_views, self.channels, self.image_size, self.image_size), dtype=torch.uint8)
        for view, edges in enumerate(boxes or self._boxes(width, height, epoch, position)):
            left, upper, right, lower = (round(edge / shrink) for edge in edges)
            views[view] = resized_crop(pixels, (left, upper, right, lower), self.image_size)
        return views

    def _boxes(self, width: int, height: int, epoch: int, position: int) -> list[Box]:
        """Draw the box of each view by torchvision's rule."""
        assert self.crop is not None
        image = torch.empty((1, height, width), device="meta")  # the rule needs only its size
        boxes: list[Box] = []
        for view in range(self.num_views):
            torch.default_generator.manual_seed(seed_for(self.seed, "sample", epoch, position, view))
            box = self.crop.make_params([image])
            left, upper = box["left"], box["top"]
            boxes.append((left, upper, left + box["width"], upper + box["height"]))
        return boxes


def _location(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised in {frame.filename}, line {frame.lineno}, {frame.name}"


def _collate(items: list[_Item | _BadImage]) -> tuple[RawBatch | None, list[_BadImage]]:
    """Stack the readable images; in a worker default_collate stacks into shared memory.

    If only one of several images is readable, it is returned twice: batch normalization needs two.
    """
    readable = [item for item in items if isinstance(item, _Item)]
    bad = [item for item in items if isinstance(item, _BadImage)]
    if len(readable) == 1 and bad:
        readable = readable * 2
    if not readable:
        return None, bad
    pixels, labels, indices = zip(*readable, strict=True)
    return RawBatch(default_collate(list(pixels)), torch.tensor(labels), torch.tensor(indices)), bad


def _leave_stop_signals_to_the_parent(worker: int) -> None:
    outlive_stop_signals()


def _remove_worker_signal_handler() -> None:
    """Remove torch's signal handler, which raises the death of a worker anywhere, even during a save.

    The loader notices a dead worker itself, within five seconds, when the next batch is fetched.
    """
    has_signal = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    if has_signal and getattr(signal.getsignal(signal.SIGCHLD), "__module__", "").startswith("torch.utils.data"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
