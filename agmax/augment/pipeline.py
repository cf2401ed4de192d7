"""All augmentation of a batch in its one order: images of uint8 in, normalized views, target rows and weights out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from agmax.augment import color
from agmax.augment.key import Key
from agmax.augment.mixing import Mix
from agmax.augment.targets import Softening, smoothed_one_hot, targets_of_views
from agmax.augment.transforms import Numbers, OccludingTransform, Transform
from agmax.core.batch import Batch

ORDER = ("crop", "flip", "policy", "color_jitter", "normalize", "lighting", "erase", "soft_crop")
"""The slots of the transforms: those before `normalize` take uint8 images, those after it normalized ones."""

CHUNK = {"cpu": 2**20, "cuda": 2**26}
"""Values (C times H times W of every view) worked on at once: they stay in the cache, or within a GPU's memory."""


class Pipeline:
    """Turn images and labels into a batch, on the images' device.

    Every random number depends on the key, its purpose and the view alone, so that any batch can be made again.
    """

    def __init__(
        self,
        *transforms: Transform,
        mix: Mix | None = None,
        mean: Sequence[float],
        std: Sequence[float],
        num_classes: int,
        num_views: int = 1,
        label_smoothing: float = 0.0,
        softening: Softening | None = None,
        views_are_alike: bool = False,
    ) -> None:
        """Put transforms, given in any order, into the one order; those of one slot stay as they are given.

        `mean` and `std` [C] normalize, on the scale 0 to 1. `mix` acts last, on each view by numbers of its own. Views
        that are alike all have the numbers of the first.

        Raises:
            ValueError: a transform of an unknown slot, two of one stream of numbers, or nothing hides what softens.
        """
        for transform in transforms:
            _check(transform, transforms, std)
        self.transforms = tuple(sorted(transforms, key=lambda transform: ORDER.index(transform.slot)))
        self.mix, self.softening = mix, softening
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.num_classes, self.num_views = num_classes, num_views
        self.label_smoothing, self.views_are_alike = label_smoothing, views_are_alike
        self._num_on_pixels = sum(ORDER.index(each.slot) < ORDER.index("normalize") for each in transforms)
        if softening is not None and not any(map(self._softens_targets, self.transforms)):
            raise ValueError(
                "softening (Pipeline): no transform hides a part of the images that could soften their targets. "
                "Add SoftCrop, CutOut or RandomErasing, or leave softening out"
            )

    def __call__(
        self, images: Tensor, labels: Tensor, *, key: Key | None = None, rows: Tensor | Sequence[int] | None = None
    ) -> Batch:
        """Make a batch of uint8 images [N, C, H, W], or [N, V, C, H, W] where each view was cut alone, and labels [N].

        Without a key the numbers are fresh ones. `rows` are positions of the batch: only theirs are returned, with the
        numbers that they have in the whole.

        Raises:
            ValueError: the images are not uint8, or not of as many labels or views.
        """
        if (
            images.dtype != torch.uint8
            or len(images) != len(labels)
            or images.shape[1:-3] not in ((), (self.num_views,))
        ):
            raise ValueError(
                f"images (Pipeline): {images.dtype} {list(images.shape)} with {len(labels)} labels. "
                f"Give uint8 images [N, C, H, W] or [N, {self.num_views}, C, H, W] and labels [N]"
            )
        key = key or Key.fresh()
        count, chosen = len(labels), None if rows is None else torch.as_tensor(rows, dtype=torch.int64).cpu()
        is_mixed = self.mix is not None and self.mix.happens(key)
        drawn = self._draw(count, images.shape[-3:], key)
        changed = self._augment(images, drawn, None if is_mixed else chosen)  # a mix needs the others
        visible, softening = (
            None if fraction is None else fraction.to(images.device, non_blocking=True)
            for fraction in self._visible_fractions(images.shape[-3:], drawn)
        )
        targets, weights = targets_of_views(
            smoothed_one_hot(
                labels.to(images.device, non_blocking=True), self.num_classes, smoothing=self.label_smoothing
            ),
            self.num_views,
            softening=self.softening,
            visible=softening,
            key=key,
        )
        if self.mix is not None and is_mixed:
            targets, weights = self._mix(self.mix, changed, targets, weights, key)
        if chosen is None:
            return Batch(changed, targets, weights, visible)
        chosen = chosen.to(images.device, non_blocking=True)
        return Batch(
            changed[chosen] if is_mixed else changed,
            targets[chosen],
            weights[chosen],
            None if visible is None else visible[chosen],
        )

    def visible_fractions(self, n: int, shape: Sequence[int], key: Key) -> tuple[Tensor | None, Tensor | None]:
        """Return how much of n images of a shape (C, H, W) is visible, and how much of it counts for their targets.

        Each [N, V], on the CPU; None where nothing hides any of it. A crop and a box together leave the product of what
        each leaves, as if the box hid the same share of every part.
        """
        return self._visible_fractions(shape, self._draw(n, shape, key))

    def _keys(self, key: Key) -> list[Key]:
        return [key.of_view(0 if self.views_are_alike else view) for view in range(self.num_views)]

    def _draw(self, n: int, shape: Sequence[int], key: Key) -> list[Numbers]:
        """Draw the numbers of every transform, each a tensor [N, V] or [N, V, ...] on the CPU."""
        drawn = []
        normalized = (max(shape[0], len(self.mean)), *shape[1:])  # gray images are repeated for three channels
        for place, transform in enumerate(self.transforms):
            of_images = shape if place < self._num_on_pixels else normalized
            views = [transform.draw(n, of_images, each) for each in self._keys(key)]
            drawn.append(tuple(torch.stack(numbers, dim=1) for numbers in zip(*views, strict=True)))
        return drawn

    def _augment(self, images: Tensor, drawn: Sequence[Numbers], chosen: Tensor | None) -> Tensor:
        """Return what becomes of the chosen of images [N, (V,) C, H, W], or of all, before they mix: [N, V, C, H, W].

        A few images at a time go through all transforms, on a CPU: memory that is still in the cache is twice as fast.
        """
        values = CHUNK.get(images.device.type, CHUNK["cpu"])
        size = max(1, values // (images.shape[-3:].numel() * self.num_views))
        count, parts = len(images) if chosen is None else len(chosen), []
        for first in range(0, max(count, 1), size):
            part = slice(first, first + size) if chosen is None else chosen[first : first + size]
            parts.append(
                self._chunk(
                    views(images[part], self.num_views),
                    [tuple(numbers[part].flatten(0, 1) for numbers in each) for each in drawn],
                )
            )
        changed = parts[0] if len(parts) == 1 else torch.cat(parts)
        return changed.view(count, self.num_views, *changed.shape[1:])

    def _chunk(self, images: Tensor, drawn: Sequence[Numbers]) -> Tensor:
        """Take uint8 images [B, C, H, W] through the transforms, each by its numbers [B, ...]."""
        steps = list(zip(self.transforms, drawn, strict=True)) if len(images) else []  # no rows were asked for
        for transform, numbers in steps[: self._num_on_pixels]:
            images = transform.apply(images, *numbers)
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        images = color.normalize(images, self.mean, self.std)
        for transform, numbers in steps[self._num_on_pixels :]:
            images = transform.apply_(images, *numbers)
        return images

    def _visible_fractions(self, shape: Sequence[int], drawn: Sequence[Numbers]) -> tuple[Tensor | None, Tensor | None]:
        """Return what `visible_shares` says, from numbers [N, V, ...]."""
        visible = softening = None
        for transform, numbers in zip(self.transforms, drawn, strict=True):
            if isinstance(transform, OccludingTransform):
                fraction = transform.visible(shape, *(each.flatten(0, 1) for each in numbers))
                fraction = fraction.view(-1, self.num_views)
                visible = fraction if visible is None else visible * fraction
                if self._softens_targets(transform):
                    softening = fraction if softening is None else softening * fraction
        return visible, softening

    def _softens_targets(self, transform: Transform) -> bool:
        if self.softening is None or not isinstance(transform, OccludingTransform):
            return False
        return self.softening.occluded_by is None or transform.slot in self.softening.occluded_by

    def _mix(self, mix: Mix, images: Tensor, targets: Tensor, weights: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """Mix each view of images, in place, by numbers of its own; return targets and weights, mixed as they are."""
        rows = torch.cat([targets, weights[..., None]], dim=-1)  # [N, V, K + 1]
        for view, each in enumerate(self._keys(key)):
            numbers = mix.draw(len(images), images.shape[2:], each)
            images[:, view], rows[:, view] = mix.apply(images[:, view], rows[:, view], *numbers)
        return rows[..., :-1], weights if self.softening is None else rows[..., -1]


def views(images: Tensor, num_views: int) -> Tensor:
    """Return images [N, C, H, W] or [N, V, C, H, W] as [B, C, H, W], the views of an image side by side."""
    return images.flatten(0, 1) if images.ndim == 5 else images.repeat_interleave(num_views, 0)


def _check(transform: Transform, transforms: Sequence[Transform], std: Sequence[float]) -> None:
    """Raise ValueError where a transform has no place, or not beside the others."""
    name = type(transform).__name__
    if transform.slot not in ORDER or transform.slot == "normalize":
        raise ValueError(f"slot ({name}): {transform.slot!r} is not known. Give one of {', '.join(ORDER)}")
    if sum(other.stream == transform.stream for other in transforms) > 1:
        raise ValueError(
            f"stream ({name}): two transforms draw the same numbers, of {transform.stream!r}. "
            "Keep one of them, or derive a class with another stream"
        )
    if tuple(getattr(transform, "image_std", std)) != tuple(std):
        raise ValueError(f"image_std ({name}): not the std {tuple(std)} of the pipeline. Give {name} that one")
