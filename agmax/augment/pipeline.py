"""The one order of augmentation; a name part only fills a slot.

Crop and flip, policy, colour jitter, normalise, lighting, erase, soft crop, mix.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from agmax.augment import color, mixing
from agmax.core.batch import Batch, RawBatch
from agmax.core.rng import generator

Slot = Callable[[Tensor, "Draw"], Tensor]
Hide = Callable[[Tensor, "Draw"], tuple[Tensor, Tensor]]
Soften = Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, Tensor]]
Mix = Callable[[Tensor, Tensor, np.random.Generator], mixing.Mixed]


class Hiding(NamedTuple):
    """A slot that hides a part of each image."""

    change: Hide  # normalised images [B, C, H, W] -> what is left of them, and the share [B] of each that is visible
    softens: bool  # the targets


class Shares(NamedTuple):
    """How much of each image is visible, [B] or [N, V]; None where nothing hides any of it.

    A crop and a box together leave the product of what each leaves, as if the box hid the same share of every part.
    """

    visible: Tensor | None
    softening: Tensor | None  # as far as it softens the targets


CHUNK = {"cpu": 2**20, "cuda": 2**26}
"""Values (C times H times W of every view) worked on at once: they stay in the cache, or within a GPU's memory."""


class Draw:
    """The random numbers of a step: for each purpose and view its own, so that no slot disturbs another.

    They are drawn once for the whole batch; `images` says which of it are at work.
    """

    def __init__(self, *, seed: int, step: int, num_views: int, num_images: int, views_are_alike: bool = False) -> None:
        self.key, self.num_views, self.num_images = (seed, "augment", step), num_views, num_images
        self.views_are_alike = views_are_alike
        self.images = slice(0, num_images)
        self._drawn: dict[str, list[Tensor]] = {}

    def rng(self, purpose: str, view: int | None = None) -> np.random.Generator:
        """Return the generator of one purpose, for one view or for all together."""
        if view is None:
            return generator(*self.key, purpose)
        return generator(*self.key, purpose, 0 if self.views_are_alike else view)

    def each(
        self,
        purpose: str,
        draw: Callable[[int, np.random.Generator], Iterable[Tensor]],
        *,
        device: torch.device | None = None,
    ) -> list[Tensor]:
        """Draw numbers for every view of every image; return those of the images at work as [B, ...].

        `draw` takes N and the generator of a view, and returns one or more tensors [N, ...].
        """
        if purpose not in self._drawn:
            views = [draw(self.num_images, self.rng(purpose, view)) for view in range(self.num_views)]
            self._drawn[purpose] = [torch.stack(numbers, dim=1) for numbers in zip(*views, strict=True)]
        parts = [numbers[self.images].flatten(0, 1) for numbers in self._drawn[purpose]]
        return [part.to(device, non_blocking=True) for part in parts] if device else parts


class Pipeline:
    """Turn samples into batches, on the device of the sample.

    Every random number depends on (seed, step, purpose, view) alone, so that any step can be made again.
    """

    def __init__(
        self,
        *,
        num_views: int,
        num_classes: int,
        mean: list[float],
        std: list[float],
        seed: int,
        on_pixels: list[Slot],
        on_floats: list[Slot],
        hiding: Sequence[Hiding] = (),
        soften: Soften | None = None,
        mix: Mix | None = None,
        mix_probability: float = 1.0,
        label_smoothing: float = 0.0,
        views_are_alike: bool = False,
    ) -> None:
        """`on_pixels` act on uint8 images, `on_floats` on normalised ones, in place or not, each in the order given.

        `hiding` follows them. `soften` takes target rows [N, V, K], the product [N, V] of the shares that soften them
        and a generator, and returns rows and loss weights [N, V].
        """
        self.num_views, self.num_classes, self.seed = num_views, num_classes, seed
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.on_pixels, self.on_floats = on_pixels, on_floats
        self.hiding, self.soften = hiding, soften
        self.mix, self.mix_probability = mix, mix_probability
        self.label_smoothing = label_smoothing
        self.views_are_alike = views_are_alike

    def __call__(self, sample: RawBatch, *, step: int) -> Batch:
        """Make the training batch of a step: images [N, V, C, H, W], targets [N, V, K], weights [N, V]."""
        count = len(sample.labels)
        draw = Draw(
            seed=self.seed,
            step=step,
            num_views=self.num_views,
            num_images=count,
            views_are_alike=self.views_are_alike,
        )
        images, shares = self._augmented(sample.images, draw)
        labels = sample.labels.to(images.device, non_blocking=True)
        targets = smoothed(labels, self.num_classes, self.label_smoothing)[:, None].expand(-1, self.num_views, -1)
        weights = torch.ones(count, self.num_views, device=images.device)
        visible, softening = (None if share is None else share.unflatten(0, weights.shape) for share in shares)
        if softening is not None and self.soften is not None:
            targets, weights = self.soften(targets, softening, draw.rng("softening"))
        batch = Batch(images.unflatten(0, weights.shape), targets, weights, visible)
        if self.mix is None or draw.rng("mix coin").random() >= self.mix_probability:
            return batch
        return self._mixed(batch, self.mix, draw)

    def _augmented(self, images: Tensor, draw: Draw) -> tuple[Tensor, Shares]:
        """Return what becomes of images [N, (V,) C, H, W] before they are mixed, [B, C, H, W], and how much they show.

        A few images at a time go through all slots, on a CPU: memory that is still in the cache is twice as fast.
        """
        chunk = CHUNK.get(images.device.type, CHUNK["cpu"])
        size = max(1, chunk // (images[0].numel() * (self.num_views if images.ndim == 4 else 1)))
        parts = []
        for first in range(0, len(images), size):
            draw.images = slice(first, first + size)
            parts.append(self._chunk(views(images[draw.images], self.num_views), draw))
        changed, shares = zip(*parts, strict=True)
        known = [[share for share in column if share is not None] for column in zip(*shares, strict=True)]
        return _joined(changed), Shares(*(_joined(column) if column else None for column in known))

    def _chunk(self, images: Tensor, draw: Draw) -> tuple[Tensor, Shares]:
        """Take uint8 images [B, C, H, W] through the slots."""
        for change in self.on_pixels:
            images = change(images, draw)
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        images = color.normalised(images, self.mean, self.std)
        for change in self.on_floats:
            images = change(images, draw)
        shares = Shares(None, None)
        for hide, softens in self.hiding:
            images, share = hide(images, draw)
            shares = Shares(_product(shares.visible, share), _product(shares.softening, share if softens else None))
        return images, shares

    def _mixed(self, batch: Batch, mix: Mix, draw: Draw) -> Batch:
        """Mix each view, in place, by a permutation, ratio and box of its own; weights are a column of the targets."""
        rows = torch.cat([batch.targets, batch.weights[..., None]], dim=-1)
        for view in range(self.num_views):
            mixed = mix(batch.images[:, view], rows[:, view], draw.rng("mix", view))
            batch.images[:, view], rows[:, view] = mixed
        weights = rows[..., -1] if self.soften is not None else batch.weights
        return batch._replace(targets=rows[..., :-1], weights=weights)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _product(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first * second


def views(images: Tensor, num_views: int) -> Tensor:
    """Return images [N, C, H, W] or [N, V, C, H, W] as [B, C, H, W], the views of an image side by side."""
    return images.flatten(0, 1) if images.ndim == 5 else images.repeat_interleave(num_views, 0)


def smoothed(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return target rows [N, K] for labels [N]: 1 - smoothing on the class, the rest even over all K classes."""
    rows = functional.one_hot(labels, num_classes).float()
    return rows * (1 - smoothing) + smoothing / num_classes if smoothing else rows
