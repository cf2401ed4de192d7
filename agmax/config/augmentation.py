"""The settings of augmentation: a word for each slot and, under that word, a block."""

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
    """Pixels of black border from which a crop of the image's size is cut."""


class RandomResizedCropConfig(Section):
    scale: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.08, 1.0]
    """Smallest and largest area, as a fraction of the image."""
    ratio: Annotated[list[Positive], Field(min_length=2, max_length=2)] = [0.75, 4 / 3]
    """Smallest and largest width over height."""
    scaled_decoding: bool = False
    """Let the JPEG decoder halve, quarter or eighth a photograph whose crops keep image_size pixels; faster."""


class SoftCropConfig(Section):
    """The off-centre crops `soft` and `wide`."""

    sigma: NonNegative = 0.375
    """Standard deviation of the offset, as a fraction of the side."""
    background: Magnitude = 0.01
    """Standard deviation of the background color, in units of the normalized image."""


class SofteningConfig(Section):
    """How targets soften where a soft crop, soft CutOut or soft random erasing occludes a part of the image."""

    applies_to: Literal["target_and_weight", "target", "weight"] = "target_and_weight"
    """What the confidence changes: the target row, the weight in the loss, or both."""
    visibility: Literal["area", "iou"] = "area"
    """What the curve starts from: the visible fraction of the image, or intersection over union of image and crop."""
    power: Positive = 2.0
    """Power k of the softening curve."""
    max_confidence: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Confidence of an image that is wholly visible."""
    reweight: Literal["image", "batch_mean"] = "image"
    """Weight each view by its own confidence, or all by their mean, as the authors' released program does."""
    confidence_source: Literal["own", "shuffled", "mean"] = "own"
    """Whose confidence a view gets: its own or, as controls, that of another view or the mean of the batch."""


class AutoAugmentConfig(Section):
    policy: Literal["cifar10", "svhn", "imagenet"] = "cifar10"
    """Which learned table of sub-policies (Cubuk et al. 2019)."""
    magnitudes: Literal["agmax", "torchvision"] = "agmax"
    """Which program's meaning of the magnitudes."""


class RandAugmentConfig(Section):
    definition: Literal["torchvision", "agmax"] = "torchvision"
    """Which program's operations and probabilities; AgMax's leaves half of the images as they are."""
    num_ops: Count = 2
    """Operations of an image, one after another."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of all operations, of 30; the definition agmax draws a strength for each instead."""


class ColorJitterConfig(Section):
    """How far factors lie from 1 at most, each drawn for every image; 0 leaves it out."""

    brightness: Magnitude = 0.0
    """Largest distance of the brightness factor from 1."""
    contrast: Magnitude = 0.0
    """Largest distance of the contrast factor from 1."""
    saturation: Magnitude = 0.0
    """Largest distance of the saturation factor from 1."""


class PCALightingConfig(Section):
    std: Magnitude = 0.0
    """Standard deviation of the light added along each principal color of ImageNet (Krizhevsky et al. 2012)."""


class CutOutConfig(Section):
    size: Fraction = 0.5
    """Side of the erased square, as a fraction of the image's side."""


class RandomErasingConfig(Section):
    p: Fraction = 0.5
    """Fraction of the images of which a box is erased."""
    scale: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.02, 0.33]
    """Smallest and largest area of the box, as a fraction of the image."""
    ratio: Annotated[list[Annotated[float, Field(ge=0.01, le=100)]], Field(min_length=2, max_length=2)] = [0.3, 10 / 3]
    """Smallest and largest height over width."""


class MixUpConfig(Section):
    p: Fraction = 1.0
    """Probability that a batch is mixed."""
    alpha: NonNegative = 0.2
    """The ratio is drawn from Beta(alpha, alpha)."""


class CutMixConfig(Section):
    p: Fraction = 1.0
    """Probability that a batch is mixed."""
    alpha: Positive = 1.0
    """The ratio is drawn from Beta(alpha, alpha)."""


CHOICES: dict[str, dict[str, None]] = {
    "crop": dict.fromkeys(("none", "standard", "random_resized", "soft", "wide")),
    "policy": dict.fromkeys(("none", "auto_augment", "rand_augment", "trivial_augment")),
    "erase": dict.fromkeys(("none", "cutout", "random_erasing", "soft_cutout", "soft_random_erasing")),
    "mix": dict.fromkeys(("none", "mixup", "cutmix")),
}
"""What each slot can be filled with."""

SOFTENS = {"soft", "soft_cutout", "soft_random_erasing"}
"""Words whose hiding softens the targets."""


class AugmentConfig(ExtensibleSection):
    words: ClassVar[tuple[str, ...]] = tuple(CHOICES)
    joined: ClassVar[dict[str, dict[str, RegisteredSetting]]] = {}

    crop: Annotated[str, KeyOf(CHOICES["crop"])] = "standard"
    """How a view is cut out of its image."""
    flip: bool = True
    """Mirror each view left to right with probability 0.5."""
    policy: Annotated[str, KeyOf(CHOICES["policy"])] = "none"
    """Which image operations are drawn for every image."""
    erase: Annotated[str, KeyOf(CHOICES["erase"])] = "none"
    """A word that begins with soft_ takes the settings of the word without it."""
    mix: Annotated[str, KeyOf(CHOICES["mix"])] = "none"
    """How images of a batch are mixed with one another."""
    views: Literal["independent", "identical", "same_class"] = "independent"
    """Views of an image have random numbers of their own, are all alike, or, as a control, show others of its class."""
    standard: StandardCropConfig = StandardCropConfig()
    random_resized: RandomResizedCropConfig = RandomResizedCropConfig()
    weak_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the epochs, the last ones, rounded down, that train with weak augmentation."""
    weak_divisor: Annotated[float, Field(ge=1, le=1e6)] = 1000.0
    """What sigma and the side of erased boxes are divided by in those epochs; nothing is mixed in them."""
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
