"""The one order of augmentation: crop and flip, policy, normalise, erase, mix; a name part only fills a slot."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from agmax.augment import color, erasing, geometry, mixing
from agmax.batch import Batch, Sample
from agmax.randomness import generator

Images = Callable[[Tensor, "Draw"], Tensor]
Mix = Callable[[Tensor, Tensor, np.random.Generator], mixing.Mixed]


class Draw(NamedTuple):
    """The random generators of a step: one for each purpose and view, so that no slot disturbs another."""

    seed: int
    step: int
    num_views: int

    def rng(self, purpose: str, view: int | None = None) -> np.random.Generator:
        """Return the generator of one purpose, for one view or for all together."""
        key = (self.seed, "augment", self.step, purpose)
        return generator(*key) if view is None else generator(*key, view)

    def each(
        self, purpose: str, images: Tensor, draw: Callable[[int, np.random.Generator], tuple[Tensor, ...]]
    ) -> list[Tensor]:
        """Draw numbers [N] for every view of images [B, C, H, W]; return them as [B] on the images' device.

        `draw` takes N and the generator of a view, and returns one or more tensors [N].
        """
        count = len(images) // self.num_views
        views = [draw(count, self.rng(purpose, view)) for view in range(self.num_views)]
        stacked = [torch.stack(numbers, dim=1).flatten() for numbers in zip(*views, strict=True)]
        return [numbers.to(images.device, non_blocking=True) for numbers in stacked]


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
        on_pixels: list[Images],
        on_floats: list[Images],
        mix: Mix | None = None,
        mix_probability: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        """`on_pixels` act on uint8 images, `on_floats` on normalised ones, each in the order given."""
        self.num_views, self.num_classes, self.seed = num_views, num_classes, seed
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.on_pixels, self.on_floats = on_pixels, on_floats
        self.mix, self.mix_probability = mix, mix_probability
        self.label_smoothing = label_smoothing

    def __call__(self, sample: Sample, *, step: int) -> Batch:
        """Make the training batch of a step: images [N, V, C, H, W], targets [N, V, K], weights [N, V]."""
        draw = Draw(self.seed, step, self.num_views)
        images = views(sample.images, self.num_views)  # [B, C, H, W]
        for change in self.on_pixels:
            images = change(images, draw)
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        images = color.normalised(images, self.mean, self.std)
        for change in self.on_floats:
            images = change(images, draw)
        shape = (len(sample.labels), self.num_views)
        rows = smoothed(sample.labels.to(images.device, non_blocking=True), self.num_classes, self.label_smoothing)
        batch = Batch(
            images.unflatten(0, shape),
            rows[:, None].expand(-1, self.num_views, -1),
            torch.ones(shape, device=images.device),
        )
        if self.mix is None or draw.rng("mix coin").random() >= self.mix_probability:
            return batch
        return self._mixed(batch, self.mix, draw)

    def _mixed(self, batch: Batch, mix: Mix, draw: Draw) -> Batch:
        """Mix each view with a permutation, ratio and box of its own."""
        mixed = [
            mix(batch.images[:, view], batch.targets[:, view], draw.rng("mix", view)) for view in range(self.num_views)
        ]
        images, targets = zip(*mixed, strict=True)
        return batch._replace(images=torch.stack(images, dim=1), targets=torch.stack(targets, dim=1))


def views(images: Tensor, num_views: int) -> Tensor:
    """Return images [N, C, H, W] or [N, V, C, H, W] as [B, C, H, W], the views of an image side by side."""
    return images.flatten(0, 1) if images.ndim == 5 else images.repeat_interleave(num_views, 0)


def smoothed(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return target rows [N, K] for labels [N]: 1 - smoothing on the class, the rest even over all K classes."""
    rows = functional.one_hot(labels, num_classes).float()
    return rows * (1 - smoothing) + smoothing / num_classes if smoothing else rows


def crop(padding: int) -> Images:
    """Make the slot of the standard crop: a window of the image's size, up to `padding` pixels aside."""

    def change(images: Tensor, draw: Draw) -> Tensor:
        top, left = draw.each("crop", images, lambda n, rng: geometry.crop_corners(n, padding=padding, rng=rng))
        return geometry.crop(images, top, left, padding=padding)

    return change


def flip() -> Images:
    """Make the slot that mirrors half of the views."""

    def change(images: Tensor, draw: Draw) -> Tensor:
        (chosen,) = draw.each("flip", images, lambda n, rng: (geometry.coins(n, rng=rng),))
        return geometry.flip(images, chosen)

    return change


def cutout(share: float) -> Images:
    """Make the slot that erases a square of `share` times the side."""

    def change(images: Tensor, draw: Draw) -> Tensor:
        height, width = images.shape[-2:]
        rows, columns = draw.each("cutout", images, lambda n, rng: erasing.cutout_centres(n, height, width, rng=rng))
        return erasing.cutout(images, rows, columns, length=round(share * height))

    return change


def mixup(alpha: float) -> Mix:
    """Make the slot that blends each image with another."""

    def change(images: Tensor, targets: Tensor, rng: np.random.Generator) -> mixing.Mixed:
        partner = mixing.partners(len(images), rng=rng).to(images.device, non_blocking=True)
        return mixing.mixup(images, targets, partner=partner, ratio=mixing.mixup_ratio(alpha, rng=rng))

    return change


def cutmix(beta: float) -> Mix:
    """Make the slot that pastes a box of another image."""

    def change(images: Tensor, targets: Tensor, rng: np.random.Generator) -> mixing.Mixed:
        partner = mixing.partners(len(images), rng=rng).to(images.device, non_blocking=True)
        box = mixing.cutmix_box(*images.shape[-2:], beta=beta, rng=rng)
        return mixing.cutmix(images, targets, partner=partner, box=box)

    return change


CROPS: dict[str, Callable[..., Images]] = {"standard": crop}
ERASERS: dict[str, Callable[..., Images]] = {"cutout": cutout}
MIXERS: dict[str, Callable[..., Mix]] = {"mixup": mixup, "cutmix": cutmix}
"""The parts that can fill a slot, by the word of the configuration; each takes that word's block of settings."""
