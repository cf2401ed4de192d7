"""The loader of image files: worker processes decode each file once and crop its views."""

import traceback
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import RandomResizedCrop

from agmax.core import memory
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
from agmax.data.workers import Workers

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
        self.labels, self._indices = data.labels, indices_of(data)
        self._num_workers, self._pin_memory = num_workers, pin_memory
        self._skip_bad_images, self._bad_paths = skip_bad_images, list[str]()
        crop = (
            RandomResizedCrop([image_size, image_size], scale=random_resized[0], ratio=random_resized[1])
            if random_resized
            else None
        )
        self._views = _Views(
            data.paths,
            image_size=image_size,
            channels=channels,
            crop=crop,
            scaled_decoding=scaled_decoding,
            exif_rotation=exif_rotation,
            num_views=num_views,
            seed=seed,
        )
        self._idle_workers: Workers | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batches: list[Tensor], *, epoch: int) -> Iterator[RawBatch]:
        """Yield a batch for each tensor of positions, in order; the crops depend on the epoch.

        Raises:
            DataError: an image cannot be read, or too many if such images are skipped.
            ResourceError: a worker died or hangs, or memory, processes or open files ran out.
        """
        try:
            for positions, (images, bad) in zip(batches, self._fill(batches, epoch), strict=True):
                self._count_bad_images(list(bad.values()))
                if bad:
                    rows = _readable_rows(len(positions), bad)
                    images, positions = images[rows], positions[rows]
                parts = images, self.labels[positions], self._indices[positions]
                yield RawBatch(*(part.pin_memory() if self._pin_memory else part for part in parts))
        except (MemoryError, RuntimeError) as error:
            if not memory.is_full(error):
                raise
            remedy = "Lower train.num_workers or train.batch_size"
            raise ResourceError(memory.FULL_MEMORY, why="while reading images", remedy=remedy) from None

    def _fill(self, batches: list[Tensor], epoch: int) -> Iterator[tuple[Tensor, "_BadImages"]]:
        """Yield the pixels of each batch, uint8 [N, ...], and its bad images.

        Workers that have finished an epoch are kept for the next. Those of an epoch that is left early are ended, with
        the batches that they work on.
        """
        if not self._num_workers or not batches:
            for positions in batches:
                images = torch.empty((len(positions), *self._views.shape), dtype=torch.uint8)
                yield images, self._views.fill(images, positions.tolist(), epoch)
            return
        workers = self._take_workers(max(map(len, batches)))
        try:
            yield from workers.fill(batches, epoch=epoch)
        finally:
            if workers.is_idle and self._idle_workers is None:
                self._idle_workers = workers
            else:
                workers.stop()

    def _take_workers(self, num_rows: int) -> Workers:
        """Return workers for batches of `num_rows` images: the idle ones, if their memory is large enough."""
        workers, self._idle_workers = self._idle_workers, None
        if workers is not None and workers.num_rows >= num_rows:
            return workers
        if workers is not None:
            workers.stop()
        return Workers(
            self._views.fill,
            num_workers=self._num_workers,
            num_rows=num_rows,
            row_shape=self._views.shape,
            pin_memory=self._pin_memory,
        )

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


_BadImages = dict[int, _BadImage]
"""The bad images of a batch, by their row."""


class _Views:
    """The views of the images of a data set, decoded and cropped from their files."""

    def __init__(
        self,
        paths: tuple[str, ...],
        *,
        image_size: int,
        channels: int,
        crop: RandomResizedCrop | None,
        scaled_decoding: bool,
        exif_rotation: bool,
        num_views: int,
        seed: int,
    ) -> None:
        self.paths = paths
        self.image_size, self.channels, self.crop = image_size, channels, crop
        self.scaled_decoding, self.exif_rotation = scaled_decoding, exif_rotation
        self.num_views, self.seed = num_views, seed

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of an image: (V, C, H, W), or (C, H, W) of center crops."""
        views = () if self.crop is None else (self.num_views,)
        return (*views, self.channels, self.image_size, self.image_size)

    def fill(self, images: Tensor, positions: list[int], epoch: int) -> _BadImages:
        """Write the images at some positions to `images` uint8 [N, ...], and return those that have an error."""
        errors = (self._write(image, position, epoch) for image, position in zip(images, positions, strict=True))
        return {row: error for row, error in enumerate(errors) if error is not None}

    def _write(self, image: Tensor, position: int, epoch: int) -> _BadImage | None:
        """Write one image [V, C, H, W] or [C, H, W], or return its error."""
        path = self.paths[position]
        try:
            if self.crop is None:
                image.copy_(self._center(path))
            else:
                self._write_crops(image, path, epoch, position)
        except UnreadableError as error:
            return _BadImage(path, str(error), True, _location(error.__context__ or error))
        except ResourceError:
            raise
        except Exception as error:
            if memory.is_full(error):
                raise MemoryError(memory.reason(error)) from error
            why = f"crop raised {type(error).__name__}: {error}"
            text = str(DataError("image cannot be cropped", where=path, why=why))
            return _BadImage(path, text, False, _location(error))
        return None

    def _center(self, path: str) -> Tensor:
        """Return the center crop [C, H, W], with the same pixels as in an evaluation."""
        image = decode_image(path, self.channels, exif_rotation=self.exif_rotation)
        return to_tensor(center_crop(image, self.image_size))

    def _write_crops(self, views: Tensor, path: str, epoch: int, position: int) -> None:
        """Write the random crops [V, C, H, W]."""
        shrink, boxes = 1, list[Box]()
        size = shrinkable_size(path, exif_rotation=self.exif_rotation) if self.scaled_decoding else None
        if size is not None:
            boxes = self._boxes(*size, epoch, position)
            shrink = max_shrink(boxes, self.image_size)
        pixels = decode_pixels(path, self.channels, exif_rotation=self.exif_rotation, shrink=shrink)
        height, width = pixels.shape[-2:]
        for view, edges in enumerate(boxes or self._boxes(width, height, epoch, position)):
            left, upper, right, lower = (round(edge / shrink) for edge in edges)
            views[view] = resized_crop(pixels, (left, upper, right, lower), self.image_size)

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


def _readable_rows(num_rows: int, bad: _BadImages) -> list[int]:
    """Return the rows of the readable images; a single one is returned twice: batch normalization needs two.

    Raises:
        DataError: there are none.
    """
    rows = [row for row in range(num_rows) if row not in bad]
    if not rows:
        why = f"none of its {num_rows} images can be read"
        raise DataError("batch without images", where=bad[0].path, why=why, remedy="Replace or remove them")
    return rows * 2 if len(rows) == 1 else rows
