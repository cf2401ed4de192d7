"""A data set of files: worker processes decode each file once and cut the views out of it."""

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
"""Share of the images, one image at least, that may be skipped."""

NUM_EXAMPLES = 5
"""Files that an error names as examples."""


class FileLoader:
    """Deliver samples of images that are decoded as they are needed."""

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
        """With `random_resized` (scale, ratio) each view is its own crop, else all share one centre crop.

        `scaled_decoding` lets the decoder shrink a JPEG whose crops stay large enough. `skip_bad_images` leaves an
        image that cannot be read out of its batch, as long as such images are few.
        """
        self.class_names = data.class_names
        self.labels = data.labels
        self._order = _BatchOrder()
        self._skips, self._bad = skip_bad_images, list[str]()
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
            worker_init_fn=_ignore_interrupt,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batches: list[Tensor], *, epoch: int) -> Iterator[RawBatch]:
        """Deliver a sample for each tensor of positions, in order; the crops depend on the epoch.

        Raises:
            DataError: an image cannot be read; where such images are skipped, they are too many.
            ResourceError: a worker died, or the memory is full.
        """
        self._order.keys = [[(epoch, position) for position in positions.tolist()] for positions in batches]
        try:
            delivered = iter(self._loader)
            _leave_dead_workers_to_the_loader()
            for sample, bad in delivered:
                self._count(bad)
                if sample is None:
                    why = f"none of its {len(bad)} images can be read"
                    raise DataError("batch without images", where=bad[0].path, why=why, remedy="Replace or remove them")
                yield sample
        except MemoryError:
            what, remedy = "the memory is full", "Lower train.num_workers or train.batch_size"
            raise ResourceError(what, why="while images were read", remedy=remedy) from None
        except RuntimeError as error:
            if "Too many open files" in str(error):
                remedy = "Raise the limit (ulimit -n) or lower train.num_workers"
                raise ResourceError("too many open files", why="the data workers share theirs", remedy=remedy) from None
            if not any(text in str(error) for text in ("DataLoader worker (pid", "Pin memory thread exited")):
                raise
            what = "a data worker was killed (often out of memory)"
            raise ResourceError(what, why=str(error), remedy="Lower train.num_workers") from None

    def _count(self, bad: list["_UnreadImage"]) -> None:
        """Count the images that are skipped and name each once; raise what cannot be skipped."""
        for image in bad:
            if not (self._skips and image.is_unreadable):
                raise image.error()
            if image.path not in self._bad:
                self._bad.append(image.path)
                log.warning("skipped: %s", image.message)
        if len(self._bad) > max(1, MAX_UNREADABLE_FRACTION * len(self)):
            raise DataError(
                "too many images cannot be read",
                where=f"{len(self._bad)} of {len(self)} so far",
                why=f"at most {MAX_UNREADABLE_FRACTION:.0%} are skipped, first {', '.join(self._bad[:NUM_EXAMPLES])}",
                remedy="Replace or remove them",
            )


class _BatchOrder:
    """The batch sampler: the epoch travels in the key, so that workers need not be started anew."""

    def __init__(self) -> None:
        self.keys: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Item(NamedTuple):
    """What is delivered of an image."""

    pixels: Tensor  # uint8 [V, C, H, W] or [C, H, W]
    label: int
    image_index: int  # its position in the files of the split


class _UnreadImage(NamedTuple):
    """What is wrong with an image, in plain text: an exception would lose its type on the way from a worker."""

    path: str
    message: str
    is_unreadable: bool
    raised_in: str

    def error(self) -> DataError:
        remedy = "Replace or remove it; dataset.on_bad_image=skip leaves such files out of a training"
        error = DataError(self.message, remedy=remedy if self.is_unreadable else "")
        error.add_note(self.raised_in)
        return error


class _ViewsDataset(Dataset[_Item | _UnreadImage]):
    """(epoch, position) -> the views of an image, or what is wrong with it."""

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

    def __getitem__(self, key: tuple[int, int]) -> _Item | _UnreadImage:
        epoch, position = key
        path = self.paths[position]
        try:
            pixels = self._center(path) if self.crop is None else self._crops(path, epoch, position)
        except UnreadableError as error:
            return _UnreadImage(path, str(error), True, _place(error.__context__ or error))
        except MemoryError:
            raise
        except Exception as error:
            why = f"crop raised {type(error).__name__}: {error}"
            return _UnreadImage(path, str(DataError("image cannot be cut", where=path, why=why)), False, _place(error))
        return _Item(pixels, int(self.labels[position]), int(self.indices[position]))

    def _center(self, path: str) -> Tensor:
        """Return the centre [C, H, W], pixel for pixel that of an evaluation."""
        image = decode_image(path, self.channels, exif_rotation=self.exif_rotation)
        return to_tensor(center_crop(image, self.image_size))

    def _crops(self, path: str, epoch: int, position: int) -> Tensor:
        """Return the random crops [V, C, H, W]."""
        shrink, boxes = 1, list[Box]()
        size = shrinkable_size(path, exif_rotation=self.exif_rotation) if self.scaled_decoding else None
        if size is not None:
            boxes = self._boxes(*size, epoch, position)
            shrink = max_shrink(boxes, self.image_size)
        whole = decode_pixels(path, self.channels, exif_rotation=self.exif_rotation, shrink=shrink)
        height, width = whole.shape[-2:]
        views = torch.empty((self.num_views, self.channels, self.image_size, self.image_size), dtype=torch.uint8)
        for view, edges in enumerate(boxes or self._boxes(width, height, epoch, position)):
            left, upper, right, lower = (round(edge / shrink) for edge in edges)
            views[view] = resized_crop(whole, (left, upper, right, lower), self.image_size)
        return views

    def _boxes(self, width: int, height: int, epoch: int, position: int) -> list[Box]:
        """Draw the box of each view by torchvision's rule."""
        assert self.crop is not None
        image = torch.empty((1, height, width), device="meta")  # the rule asks for its size alone
        boxes: list[Box] = []
        for view in range(self.num_views):
            torch.default_generator.manual_seed(seed_for(self.seed, "sample", epoch, position, view))
            box = self.crop.make_params([image])
            left, upper = box["left"], box["top"]
            boxes.append((left, upper, left + box["width"], upper + box["height"]))
        return boxes


def _place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised in {frame.filename}, line {frame.lineno}, {frame.name}"


def _collate(items: list[_Item | _UnreadImage]) -> tuple[RawBatch | None, list[_UnreadImage]]:
    """Stack what could be cut; in a worker default_collate stacks into shared memory.

    One image left of several is delivered twice: batch normalisation needs two.
    """
    cuts = [item for item in items if isinstance(item, _Item)]
    bad = [item for item in items if isinstance(item, _UnreadImage)]
    if len(cuts) == 1 and bad:
        cuts = cuts * 2
    if not cuts:
        return None, bad
    pixels, labels, indices = zip(*cuts, strict=True)
    return RawBatch(default_collate(list(pixels)), torch.tensor(labels), torch.tensor(indices)), bad


def _ignore_interrupt(worker: int) -> None:
    """Let the main process alone answer Ctrl-C, which reaches the workers too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave_dead_workers_to_the_loader() -> None:
    """Take back the signal handler by which torch raises a worker's death anywhere, in the middle of a save too.

    The loader looks for dead workers itself, within five seconds, where a batch is taken.
    """
    is_ours = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    if is_ours and getattr(signal.getsignal(signal.SIGCHLD), "__module__", "").startswith("torch.utils.data"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
