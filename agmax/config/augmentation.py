"""The settings of augmentation: one word for each slot, and a block of settings for each word."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from agmax.config.section import (
    Count,
    ExtensibleSection,
    Fraction,
    KeyOf,
    Magnitude,
    NonNegative,
    Positive,
    RegisteredSetting,
    Section,
)


class StandardCropConfig(Section):
    padding: Annotated[int, Field(ge=0)] = 4
    """Width in pixels of the black border that is added before a crop of the image's size is cut."""


class RandomResizedCropConfig(Section):
    scale: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.08, 1.0]
    """Smallest and largest area of the crop, as a fraction of the image."""
    ratio: Annotated[list[Positive], Field(min_length=2, max_length=2)] = [0.75, 4 / 3]
    """Smallest and largest width over height of the crop."""
    scaled_decoding: bool = False
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size if its crops still have image_size pixels; faster."""


class SoftCropConfig(Section):
    """The off-center crops `soft` and `wide`."""

    sigma: NonNegative = 0.375
    """Standard deviation of the offset, as a fraction of the side."""
    background: Magnitude = 0.01
    """Standard deviation of the background color, in units of the normalized image."""


class SofteningConfig(Section):
    """How targets soften if a soft crop, soft CutOut or soft random erasing occludes a part of the image."""

    applies_to: Literal["target_and_weight", "target", "weight"] = "target_and_weight"
    """What the confidence changes: the target row, the weight in the loss, or both."""
    visibility: Literal["area", "iou"] = "area"
    """Input of the softening curve: the visible fraction of the image, or intersection over union of image and crop."""
    power: Positive = 2.0
    """Power k of the softening curve."""
    max_confidence: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Confidence of a fully visible image."""
    reweight: Literal["image", "batch_mean"] = "image"
    """Weight each view by its own confidence, or all views by the mean, as the authors' released program does."""
    confidence_source: Literal["own", "shuffled", "mean"] = "own"
    """Confidence that a view gets: its own or, as controls, that of another view or the mean of the batch."""


class AutoAugmentConfig(Section):
    policy: Literal["cifar10", "svhn", "imagenet"] = "cifar10"
    """Table of sub-policies, by the data set it was searched on (Cubuk et al. 2019)."""
    magnitudes: Literal["agmax", "torchvision"] = "agmax"
    """Program that defines what the magnitudes mean."""


class RandAugmentConfig(Section):
    definition: Literal["torchvision", "agmax"] = "torchvision"
    """Program that defines operations and probabilities; AgMax's leaves half of the images unchanged."""
    num_ops: Count = 2
    """Number of operations for each image, applied one after another."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of all operations, from 0 to 30; unused by the definition agmax, which samples a strength for each."""


class ColorJitterConfig(Section):
    """Ranges of the factors, which are sampled for each image; 0 turns a factor off."""

    brightness: Magnitude = 0.0
    """Largest difference of the brightness factor from 1."""
    contrast: Magnitude = 0.0
    """Largest difference of the contrast factor from 1."""
    saturation: Magnitude = 0.0
    """Largest difference of the saturation factor from 1."""


class PCALightingConfig(Section):
    std: Magnitude = 0.0
    """Standard deviation of the shift along each principal component of ImageNet's colors (Krizhevsky et al. 2012)."""


class CutOutConfig(Section):
    size: Fraction = 0.5
    """Side of the erased square, as a fraction of the image's side."""


class RandomErasingConfig(Section):
    p: Fraction = 0.5
    """Probability that a box of an image is erased."""
    scale: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.02, 0.33]
    """Smallest and largest area of the box, as a fraction of the image."""
    ratio: Annotated[list[Annotated[float, Field(ge=0.01, le=100)]], Field(min_length=2, max_length=2)] = [0.3, 10 / 3]
    """Smallest and largest height over width of the box."""


class MixUpConfig(Section):
    p: Fraction = 1.0
    """Probability that a batch is mixed."""
    alpha: NonNegative = 0.2
    """Parameter of Beta(alpha, alpha), from which the mixing ratio is sampled."""


class CutMixConfig(Section):
    p: Fraction = 1.0
    """Probability that a batch is mixed."""
    alpha: Positive = 1.0
    """Parameter of Beta(alpha, alpha), from which the mixing ratio is sampled."""


CHOICES: dict[str, dict[str, None]] = {
    "crop": dict.fromkeys(("none", "standard", "random_resized", "soft", "wide")),
    "policy": dict.fromkeys(("none", "auto_augment", "rand_augment", "trivial_augment")),
    "erase": dict.fromkeys(("none", "cutout", "random_erasing", "soft_cutout", "soft_random_erasing")),
    "mix": dict.fromkeys(("none", "mixup", "cutmix")),
}
"""The words that each slot accepts."""

SOFTENS = {"soft", "soft_cutout", "soft_random_erasing"}
"""The words whose occlusion softens the targets."""


class AugmentConfig(ExtensibleSection):
    words: ClassVar[tuple[str, ...]] = tuple(CHOICES)
    registered: ClassVar[dict[str, dict[str, RegisteredSetting]]] = {}

    crop: Annotated[str, KeyOf(CHOICES["crop"])] = "standard"
    """How a view is cropped from its image."""
    flip: bool = True
    """Mirror each view left to right with probability 0.5."""
    policy: Annotated[str, KeyOf(CHOICES["policy"])] = "none"
    """Set of image operations from which each image's operations are sampled."""
    erase: Annotated[str, KeyOf(CHOICES["erase"])] = "none"
    """How a part of a view is erased; soft_cutout and soft_random_erasing use the blocks cutout and random_erasing."""
    mix: Annotated[str, KeyOf(CHOICES["mix"])] = "none"
    """How the images of a batch are mixed with each other."""
    views: Literal["independent", "identical", "same_class"] = "independent"
    """Views of an image are augmented independently or identically or, as a control, are other images of its class."""
    standard: StandardCropConfig = StandardCropConfig()
    random_resized: RandomResizedCropConfig = RandomResizedCropConfig()
    weak_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the epochs, at the end, that train with weak augmentation; their number is rounded down."""
    weak_divisor: Annotated[float, Field(ge=1, le=1e6)] = 1000.0
    """Divisor of sigma and of the side of erased boxes in the weak-augmentation epochs, which mix no images."""
    soft: SoftCropConfig = SoftCropConfig()
    softening: SofteningConfig = SofteningConfig()
    auto_augment: AutoAugmentConfig = AutoAugmentConfig()
    rand_augment: RandAugmentConfig = RandAugmentConfig()
    color_jitter: ColorJitterConfig = ColorJitterConfig()
    pca_lighting: PCALightingConfig = PCALightingConfig()
    cutout: CutOutConfig = CutOutConfig()
    random_erasing: RandomErasingConfig = RandomErasingConfig()
    mixup: MixUpConfig = MixUpConfig()
    cutmix: CutMixConfig = CutMixConfig()
