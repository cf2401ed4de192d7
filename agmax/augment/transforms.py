"""The transforms as frozen dataclasses: each draws random numbers for a batch and applies them to any of its rows.

To add one, write a class here. For the configuration, add a line to a table below, its word and settings to
config/augmentation.py, and a fragment to configs/augment. Tests fail until all of them exist.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from agmax.augment import color, erasing, geometry, operations, policies, soft_crop
from agmax.augment.checks import check_choice, check_range, check_span
from agmax.augment.key import Key

Numbers = tuple[Tensor, ...]
"""The drawn numbers of a transform, on the CPU: tensors with one row per image, [B] or [B, ...]."""


class Transform(Protocol):
    """Transform images [B, C, H, W], each with its own random numbers.

    A subclass is a frozen dataclass of its settings. `draw` is called once for the complete batch. `apply` takes any
    rows of the drawn numbers with their images, on a CPU or a GPU.
    """

    slot: ClassVar[str]
    """The position in `pipeline.ORDER`, which also determines whether it takes uint8 or normalized images."""
    stream: ClassVar[str]
    """The name of its random stream: key and stream together determine the numbers."""

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        """Draw the random numbers for n images of shape (C, H, W)."""
        ...

    @property
    def apply(self) -> Callable[..., Tensor]:
        """Return the transformed images [B, C, H, W]: `apply(images, *numbers)`, with one row of numbers per image."""
        ...

    @property
    def apply_(self) -> Callable[..., Tensor]:
        """Return the same as `apply`; it may change the given images if that is faster."""
        return self.apply

    def __call__(self, images: Tensor, *, key: Key | None = None) -> Tensor:
        """Return the transformed images [B, C, H, W]; without a key, a fresh one is used."""
        return self.apply(images, *self.draw(len(images), images.shape[1:], key or Key.fresh()))


@runtime_checkable
class OccludingTransform(Transform, Protocol):
    """A transform that occludes a part of each image."""

    @property
    def visible(self) -> Callable[..., Tensor]:
        """Return the visible fraction [B] of each image: `visible(shape, *numbers)` for a shape (C, H, W)."""
        ...

    def with_visible(self, images: Tensor, *, key: Key | None = None) -> tuple[Tensor, Tensor]:
        """Return the transformed images [B, C, H, W] and the visible fraction [B] of each."""
        shape = images.shape[1:]
        numbers = self.draw(len(images), shape, key or Key.fresh())
        return self.apply(images, *numbers), self.visible(shape, *numbers).to(images.device)


def _to_device_of(images: Tensor, *numbers: Tensor) -> list[Tensor]:
    return [each.to(images.device, non_blocking=True) for each in numbers]


# --- on uint8 images ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomCrop(Transform):
    """Pad each image with `padding` black pixels and crop it to its original size at a random position."""

    padding: int = 4

    slot: ClassVar[str] = "crop"
    stream: ClassVar[str] = "crop"

    def __post_init__(self) -> None:
        check_range(self, "padding")

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        return geometry.crop_offsets(n, padding=self.padding, rng=key.rng(self.stream))

    def apply(self, images: Tensor, top: Tensor, left: Tensor) -> Tensor:
        return geometry.crop(images, *_to_device_of(images, top, left), padding=self.padding)


@dataclass(frozen=True)
class RandomHorizontalFlip(Transform):
    """Flip each image left to right with probability `p`."""

    p: float = 0.5

    slot: ClassVar[str] = "flip"
    stream: ClassVar[str] = "flip"

    def __post_init__(self) -> None:
        check_range(self, "p", high=1)

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        return (geometry.bernoulli(n, p=self.p, rng=key.rng(self.stream)),)

    def apply(self, images: Tensor, chosen: Tensor) -> Tensor:
        return geometry.flip(images, *_to_device_of(images, chosen))


class _Operations(Transform, Protocol):
    """Apply drawn operations to each image, one after another."""

    def apply(self, images: Tensor, codes: Tensor, values: Tensor) -> Tensor:
        for code, value in zip(codes.T.numpy(), values.T.numpy(), strict=True):
            images = operations.apply_operations(images, code, value)
        return images


def _tensors(plan: policies.Plan) -> Numbers:
    return tuple(map(torch.from_numpy, plan))


@dataclass(frozen=True)
class AutoAugment(_Operations):
    """Apply one of the 25 pairs of operations of a learned policy (Cubuk et al. 2019).

    `magnitudes` chooses the values of the policy's levels: those of the AgMax program or of torchvision.
    """

    policy: str = "cifar10"
    magnitudes: str = "agmax"

    slot: ClassVar[str] = "policy"
    stream: ClassVar[str] = "policy"

    def __post_init__(self) -> None:
        check_choice(self, "policy", policies.AUTO_AUGMENT)
        check_choice(self, "magnitudes", policies.MAGNITUDES)

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        height, width = shape[-2:]
        plan = policies.auto_augment(
            n, height, width, policy=self.policy, magnitudes=self.magnitudes, rng=key.rng(self.stream)
        )
        return _tensors(plan)


@dataclass(frozen=True)
class RandAugment(_Operations):
    """Apply `num_ops` random operations of one magnitude, 0 to 30 (Cubuk et al. 2020).

    The definition `agmax` leaves half of the images unchanged and draws a magnitude for each operation instead.
    """

    num_ops: int = 2
    magnitude: int = 9
    definition: str = "torchvision"

    slot: ClassVar[str] = "policy"
    stream: ClassVar[str] = "policy"

    def __post_init__(self) -> None:
        check_range(self, "num_ops", low=1)
        check_range(self, "magnitude", high=policies.NUM_LEVELS - 1)
        check_choice(self, "definition", policies.RAND_AUGMENT)

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        height, width = shape[-2:]
        plan = policies.rand_augment(
            n,
            height,
            width,
            definition=self.definition,
            num_ops=self.num_ops,
            magnitude=self.magnitude,
            rng=key.rng(self.stream),
        )
        return _tensors(plan)


@dataclass(frozen=True)
class TrivialAugmentWide(_Operations):
    """Apply one random operation of a random magnitude (Müller and Hutter 2021)."""

    slot: ClassVar[str] = "policy"
    stream: ClassVar[str] = "policy"

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        height, width = shape[-2:]
        return _tensors(policies.trivial_augment(n, height, width, rng=key.rng(self.stream)))


@dataclass(frozen=True)
class ColorJitter(_Operations):
    """Change brightness, contrast and saturation in random order.

    Each factor is uniform between 1 - setting (at least 0) and 1 + setting.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    slot: ClassVar[str] = "color_jitter"
    stream: ClassVar[str] = "color jitter"

    def __post_init__(self) -> None:
        check_range(self, "brightness", "contrast", "saturation")

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        plan = policies.color_jitter(
            n,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            rng=key.rng(self.stream),
        )
        return _tensors(plan)


# --- on normalized images -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PCALighting(Transform):
    """Apply PCA lighting to RGB images, with ImageNet's principal components (Krizhevsky et al. 2012, 4.1).

    `image_std` is the standard deviation that the images were normalized with, by default ImageNet's.
    """

    std: float = 0.1
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)

    slot: ClassVar[str] = "pca_lighting"
    stream: ClassVar[str] = "lighting"

    def __post_init__(self) -> None:
        check_range(self, "std", "image_std")

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        if shape[0] != 3:
            raise ValueError(f"channels (PCALighting): {shape[0]}. Give images of 3 channels, or leave PCALighting out")
        return (color.pca_lighting_amounts(n, std=self.std, rng=key.rng(self.stream)),)

    def apply(self, images: Tensor, amounts: Tensor) -> Tensor:
        return self.apply_(images.clone(), amounts)

    def apply_(self, images: Tensor, amounts: Tensor) -> Tensor:
        return color.add_pca_lighting_(images, amounts, torch.tensor(self.image_std))


class _Box(OccludingTransform, Protocol):
    """Fill a box of each image with 0, which is the mean color."""

    def apply(self, images: Tensor, *edges: Tensor) -> Tensor:
        return self.apply_(images.clone(), *edges)

    def apply_(self, images: Tensor, *edges: Tensor) -> Tensor:
        return erasing.erase_(images, erasing.Boxes(*_to_device_of(images, *edges)))

    def visible(self, shape: Sequence[int], *edges: Tensor) -> Tensor:
        return erasing.visible_fraction(erasing.Boxes(*edges), height=shape[-2], width=shape[-1])


@dataclass(frozen=True)
class CutOut(_Box):
    """Erase a square of `size` times the image's height, its center uniform (DeVries and Taylor 2017)."""

    size: float = 0.5

    slot: ClassVar[str] = "erase"
    stream: ClassVar[str] = "cutout"

    def __post_init__(self) -> None:
        check_range(self, "size", high=1)

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        height, width = shape[-2:]
        return erasing.cutout_boxes(n, height, width, length=round(self.size * height), rng=key.rng(self.stream))


@dataclass(frozen=True)
class RandomErasing(_Box):
    """Erase a box of random size from each image with probability `p` (Zhong et al. 2020).

    `scale` is the range of its area, as a fraction of the image's area, and `ratio` that of height over width.
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 10 / 3)

    slot: ClassVar[str] = "erase"
    stream: ClassVar[str] = "random erasing"

    def __post_init__(self) -> None:
        check_range(self, "p", "scale", high=1)
        check_range(self, "ratio", low=0.01, high=100)
        check_span(self, "scale", "ratio")

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        height, width = shape[-2:]
        return erasing.random_erasing_boxes(
            n, height, width, p=self.p, scale=self.scale, ratio=self.ratio, rng=key.rng(self.stream)
        )


@dataclass(frozen=True)
class SoftCrop(OccludingTransform):
    """Crop each image to its own size with a large random offset from the center (Liu et al. 2023).

    `sigma` is the standard deviation of the offset, as a fraction of the side, and `background` that of the fill color.
    """

    sigma: float = 0.375
    background: float = 0.01

    slot: ClassVar[str] = "soft_crop"
    stream: ClassVar[str] = "soft crop"

    def __post_init__(self) -> None:
        check_range(self, "sigma", "background")

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        channels, height, width = shape
        down, right = soft_crop.soft_crop_offsets(n, height, width, sigma=self.sigma, rng=key.rng(self.stream))
        colors = soft_crop.backgrounds(n, channels, std=self.background, rng=key.rng("background"))
        return down, right, colors.float()

    def apply(self, images: Tensor, down: Tensor, right: Tensor, colors: Tensor) -> Tensor:
        down, right, colors = _to_device_of(images, down, right, colors)
        return geometry.shifted_crop(images, down, right, background=colors)

    def visible(self, shape: Sequence[int], down: Tensor, right: Tensor, colors: Tensor) -> Tensor:
        return soft_crop.visible_fraction(down, right, height=shape[-2], width=shape[-1])


CROPS: dict[str, Callable[..., Transform]] = {"standard": RandomCrop, "soft": SoftCrop, "wide": SoftCrop}
POLICIES: dict[str, Callable[..., Transform]] = {
    "auto_augment": AutoAugment,
    "rand_augment": RandAugment,
    "trivial_augment": TrivialAugmentWide,
}
ERASERS: dict[str, Callable[..., Transform]] = {
    "cutout": CutOut,
    "random_erasing": RandomErasing,
    "soft_cutout": CutOut,
    "soft_random_erasing": RandomErasing,
}
"""The transforms by the words of the configuration; `mixing.MIXES` has those that mix images."""
