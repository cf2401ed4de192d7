"""The augmentation pipeline: uint8 images in; normalized views, target rows and weights out, in one fixed order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from agmax.augment import color
from agmax.augment.key import Key
from agmax.augment.mixing import Mix
from agmax.augment.targets import Softening, smoothed_one_hot, targets_of_views
from agmax.augment.transforms import Numbers, OccludingTransform, Transform
from agmax.core.batch import Batch

ORDER = ("crop", "flip", "policy", "color_jitter", "normalize", "pca_lighting", "erase", "soft_crop")
"""The slots of the transforms, in order: those before `normalize` take uint8 images, those after it normalized ones."""

CHUNK = {"cpu": 2**20, "cuda": 2**26}
"""Values (C·H·W of every view) that are processed at once, so that they fit into the cache or a GPU's memory."""


class Pipeline:
    """Augment images and labels to a batch, on the device of the images.

    Every random number depends only on the key, its purpose and the view, so that any batch can be reproduced.
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
        """Sort the transforms by their slots; those of one slot keep the given order.

        `mean` and `std` [C], on the scale 0 to 1, normalize the images. `mix` is applied last, to each view with its
        own random numbers. With `views_are_alike` all views have the random numbers of the first.

        Raises:
            ValueError: a slot is unknown, two transforms have the same stream, or `softening` is given but no
                transform occludes.
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
                "softening (Pipeline): no transform occludes a part of the images, so there is nothing to soften. "
                "Add SoftCrop, CutOut or RandomErasing, or leave softening out"
            )

    def __call__(
        self, images: Tensor, labels: Tensor, *, key: Key | None = None, rows: Tensor | Sequence[int] | None = None
    ) -> Batch:
        """Augment uint8 images [N, C, H, W], or [N, V, C, H, W] if the views are already cropped, with labels [N].

        Without a key, a fresh one is used. `rows` are positions in the batch: only they are returned, with the random
        numbers that they have in the complete batch.

        Raises:
            ValueError: the images are not uint8, the labels not int64, or their numbers or views differ.
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
        if labels.dtype != torch.int64:
            raise ValueError(
                f"labels (Pipeline): {labels.dtype}. Give class numbers as int64 [N], such as labels.long()"
            )
        key = key or Key.fresh()
        count, chosen = len(labels), None if rows is None else torch.as_tensor(rows, dtype=torch.int64).cpu()
        is_mixed = self.mix is not None and self.mix.happens(key)
        drawn = self._draw(count, images.shape[-3:], key)
        augmented = self._augment(images, drawn, None if is_mixed else chosen)  # a mix needs all images
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
            targets, weights = self._mix(self.mix, augmented, targets, weights, key)
        if chosen is None:
            return Batch(augmented, targets, weights, visible)
        chosen = chosen.to(images.device, non_blocking=True)
        return Batch(
            augmented[chosen] if is_mixed else augmented,
            targets[chosen],
            weights[chosen],
            None if visible is None else visible[chosen],
        )

    def visible_fractions(self, n: int, shape: Sequence[int], key: Key) -> tuple[Tensor | None, Tensor | None]:
        """Return the visible fractions of n images of shape (C, H, W), and those that soften their targets.

        Each is [N, V], on the CPU, or None if no transform occludes. The fractions of several transforms are
        multiplied, as if each occluded every part of the image equally.
        """
        return self._visible_fractions(shape, self._draw(n, shape, key))

    def _keys(self, key: Key) -> list[Key]:
        return [key.of_view(0 if self.views_are_alike else view) for view in range(self.num_views)]

    def _draw(self, n: int, shape: Sequence[int], key: Key) -> list[Numbers]:
        """Draw the random numbers of every transform: tensors [N, V] or [N, V, ...] on the CPU."""
        drawn = []
        normalized_shape = (max(shape[0], len(self.mean)), *shape[1:])  # gray images are repeated for three channels
        for index, transform in enumerate(self.transforms):
            input_shape = shape if index < self._num_on_pixels else normalized_shape
            views = [transform.draw(n, input_shape, each) for each in self._keys(key)]
            drawn.append(tuple(torch.stack(numbers, dim=1) for numbers in zip(*views, strict=True)))
        return drawn

    def _augment(self, images: Tensor, drawn: Sequence[Numbers], chosen: Tensor | None) -> Tensor:
        """Apply all transforms to images [N, (V,) C, H, W], or to the chosen ones, and return views [N, V, C, H, W].

        A few images at a time go through all transforms: on a CPU this is twice as fast, as they stay in the cache.
        """
        values = CHUNK.get(images.device.type, CHUNK["cpu"])
        size = max(1, values // (images.shape[-3:].numel() * self.num_views))
        count, parts = len(images) if chosen is None else len(chosen), []
        for first in range(0, max(count, 1), size):
            part = slice(first, first + size) if chosen is None else chosen[first : first + size]
            parts.append(
                self._augment_chunk(
                    views(images[part], self.num_views),
                    [tuple(numbers[part].flatten(0, 1) for numbers in each) for each in drawn],
                )
            )
        augmented = parts[0] if len(parts) == 1 else torch.cat(parts)
        return augmented.view(count, self.num_views, *augmented.shape[1:])

    def _augment_chunk(self, images: Tensor, drawn: Sequence[Numbers]) -> Tensor:
        """Apply all transforms to uint8 images [B, C, H, W], with drawn numbers [B, ...]."""
        steps = list(zip(self.transforms, drawn, strict=True)) if len(images) else []  # `rows` may be empty
        for transform, numbers in steps[: self._num_on_pixels]:
            images = transform.apply(images, *numbers)
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        images = color.normalize(images, self.mean, self.std)
        for transform, numbers in steps[self._num_on_pixels :]:
            images = transform.apply_(images, *numbers)
        return images

    def _visible_fractions(self, shape: Sequence[int], drawn: Sequence[Numbers]) -> tuple[Tensor | None, Tensor | None]:
        """Return the same as `visible_fractions`, for drawn numbers [N, V, ...]."""
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
        """Mix each view of the images in place; return targets and weights, mixed by the same ratios."""
        rows = torch.cat([targets, weights[..., None]], dim=-1)  # [N, V, K + 1]
        for view, each in enumerate(self._keys(key)):
            numbers = mix.draw(len(images), images.shape[2:], each)
            images[:, view], rows[:, view] = mix.apply(images[:, view], rows[:, view], *numbers)
        return rows[..., :-1], weights if self.softening is None else rows[..., -1]


def views(images: Tensor, num_views: int) -> Tensor:
    """Return images [N, C, H, W] or [N, V, C, H, W] as [B, C, H, W], with the views of an image side by side."""
    return images.flatten(0, 1) if images.ndim == 5 else images.repeat_interleave(num_views, 0)


def _check(transform: Transform, transforms: Sequence[Transform], std: Sequence[float]) -> None:
    """Raise ValueError if a transform does not fit into the pipeline."""
    name = type(transform).__name__
    if transform.slot not in ORDER or transform.slot == "normalize":
        raise ValueError(f"slot ({name}): {transform.slot!r} is not known. Give one of {', '.join(ORDER)}")
    if sum(other.stream == transform.stream for other in transforms) > 1:
        raise ValueError(
            f"stream ({name}): two transforms draw the same random numbers, of stream {transform.stream!r}. "
            "Keep one of them, or derive a class with another stream"
        )
    if tuple(getattr(transform, "image_std", std)) != tuple(std):
        raise ValueError(f"image_std ({name}): it differs from the pipeline's std. Give {name} image_std={tuple(std)}")
