"""The transforms as frozen dataclasses: each draws its numbers for a whole batch and applies them to any part of it.

To add one: a class here and, for the configuration, a line of a table below, its word and settings in
config/augmentation.py, and a fragment in configs/augment; tests say what is missing.
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
"""What a transform draws, on the CPU: tensors of one row an image, [B] or [B, ...]."""


class Transform(Protocol):
    """Change images [B, C, H, W], each by random numbers of its own.

    A subclass is a frozen dataclass of its settings. `draw` is asked once for the whole batch, `apply` takes any rows
    of what was drawn with their images, on a CPU or a GPU.
    """

    slot: ClassVar[str]
    """Its place in `pipeline.ORDER`, which also says whether it takes uint8 or normalized images."""
    stream: ClassVar[str]
    """The purpose of its numbers: with the key it decides what is drawn."""

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        """Draw the numbers of n images of a shape (C, H, W)."""
        ...

    @property
    def apply(self) -> Callable[..., Tensor]:
        """Return the images [B, C, H, W], changed by their rows of what was drawn: `apply(images, *numbers)`."""
        ...

    @property
    def apply_(self) -> Callable[..., Tensor]:
        """Do the same, where it is faster in place: the images that are given are not needed any more."""
        return self.apply

    def __call__(self, images: Tensor, *, key: Key | None = None) -> Tensor:
        """Return images [B, C, H, W], changed by the numbers of a key; without one, of a fresh one."""
        return self.apply(images, *self.draw(len(images), images.shape[1:], key or Key.fresh()))


@runtime_checkable
class OccludingTransform(Transform, Protocol):
    """A transform that hides a part of each image."""

    @property
    def visible(self) -> Callable[..., Tensor]:
        """Return the share [B] of each image that is left: `visible(shape, *numbers)` for a shape (C, H, W)."""
        ...

    def with_visible(self, images: Tensor, *, key: Key | None = None) -> tuple[Tensor, Tensor]:
        """Return images [B, C, H, W], changed as by a call, and the share [B] of each that is still visible."""
        shape = images.shape[1:]
        numbers = self.draw(len(images), shape, key or Key.fresh())
        return self.apply(images, *numbers), self.visible(shape, *numbers).to(images.device)


def _to_device_of(images: Tensor, *numbers: Tensor) -> list[Tensor]:
    return [each.to(images.device, non_blocking=True) for each in numbers]


# --- on uint8 images ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomCrop(Transform):
    """Cut a window of the image's size, up to `padding` pixels aside; what lies outside of the image is black."""

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
    """Mirror each image with probability `p`, left to right."""

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
    """Apply to each image the operations that were drawn for it, one after another."""

    def apply(self, images: Tensor, codes: Tensor, values: Tensor) -> Tensor:
        for code, value in zip(codes.T.numpy(), values.T.numpy(), strict=True):
            images = operations.apply_operations(images, code, value)
        return images


def _tensors(plan: policies.Plan) -> Numbers:
    return tuple(map(torch.from_numpy, plan))


@dataclass(frozen=True)
class AutoAugment(_Operations):
    """Apply one of the 25 pairs of a learned policy (Cubuk et al. 2019).

    `magnitudes` says which program's meaning the levels of the policy have.
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
    """Apply `num_ops` random operations of one strength (Cubuk et al. 2020).

    `magnitude` is of 0 to 30. The definition `agmax` leaves half of the images as they are and draws a strength for
    each operation instead.
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
    """Apply one random operation of any strength (Müller and Hutter 2021)."""

    slot: ClassVar[str] = "policy"
    stream: ClassVar[str] = "policy"

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        height, width = shape[-2:]
        return _tensors(policies.trivial_augment(n, height, width, rng=key.rng(self.stream)))


@dataclass(frozen=True)
class ColorJitter(_Operations):
    """Change brightness, contrast and saturation in random order.

    Each factor is uniform between 1 less its setting (at least 0) and 1 plus it.
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
    """Add light along the principal colours of ImageNet to images of three channels (Krizhevsky et al. 2012, 4.1).

    `image_std` is what the images were divided by when they were normalized: ImageNet's, where nothing else is said.
    """

    std: float = 0.1
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)

    slot: ClassVar[str] = "lighting"
    stream: ClassVar[str] = "lighting"

    def __post_init__(self) -> None:
        check_range(self, "std", "image_std")

    def draw(self, n: int, shape: Sequence[int], key: Key) -> Numbers:
        if shape[0] != 3:
            raise ValueError(f"channels (PCALighting): {shape[0]}, where its colours have three. Leave it out")
        return (color.pca_lighting_amounts(n, std=self.std, rng=key.rng(self.stream)),)

    def apply(self, images: Tensor, amounts: Tensor) -> Tensor:
        return self.apply_(images.clone(), amounts)

    def apply_(self, images: Tensor, amounts: Tensor) -> Tensor:
        return color.add_pca_lighting_(images, amounts, torch.tensor(self.image_std))


class _Box(OccludingTransform, Protocol):
    """Fill a box of each image with 0, which is the mean colour."""

    def apply(self, images: Tensor, *edges: Tensor) -> Tensor:
        return self.apply_(images.clone(), *edges)

    def apply_(self, images: Tensor, *edges: Tensor) -> Tensor:
        return erasing.erase_(images, erasing.Boxes(*_to_device_of(images, *edges)))

    def visible(self, shape: Sequence[int], *edges: Tensor) -> Tensor:
        return erasing.visible_fraction(erasing.Boxes(*edges), height=shape[-2], width=shape[-1])


@dataclass(frozen=True)
class CutOut(_Box):
    """Erase a square of `size` times the image's side, its centre uniform over the image (DeVries and Taylor 2017)."""

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

    `scale` is the smallest and largest area, as a share of the image's, `ratio` those of height over width.
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
    """See each image through a window of its size that lies far aside (Liu et al. 2023).

    `sigma` is the deviation of the offset, as a share of the side, `background` that of the colour outside.
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
