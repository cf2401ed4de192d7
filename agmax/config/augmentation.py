"""The settings of augmentation: a word for each slot and, under that word, a block."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from agmax.config.section import Count, Joined, KeyOf, NonNegative, OpenSection, Positive, Section, Share, Strength


class Standard(Section):
    padding: Annotated[int, Field(ge=0)] = 4
    """Pixels of black border from which a crop of the image's size is cut."""


class RandomResized(Section):
    scale: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.08, 1.0]
    """Smallest and largest area, as a share of the image."""
    ratio: Annotated[list[Positive], Field(min_length=2, max_length=2)] = [0.75, 4 / 3]
    """Smallest and largest width over height."""
    scaled_decoding: bool = False
    """Let the JPEG decoder halve, quarter or eighth a photograph whose crops keep image_size pixels; faster."""


class Soft(Section):
    """The far-reaching window of the crops soft and wide."""

    sigma: NonNegative = 0.375
    """Standard deviation of the offset, as a share of the side."""
    background: Strength = 0.01
    """Standard deviation of the background colour, in units of the normalised image."""


class Softening(Section):
    """What a view is told that shows less of its image: by a soft crop, soft CutOut or soft random erasing."""

    applies_to: Literal["target_and_weight", "target", "weight"] = "target_and_weight"
    """What the confidence changes: the target row, the weight in the loss, or both."""
    visibility: Literal["area", "iou"] = "area"
    """What the curve starts from: the visible share of the image, or image and window's intersection over union."""
    power: Positive = 2.0
    """Power k of the softening curve."""
    max_confidence: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Confidence of an image that is wholly visible."""
    reweight: Literal["image", "batch_mean"] = "image"
    """Weigh each view by its own confidence, or all by their mean, as the authors' released program comes to do."""
    link: Literal["own", "shuffled", "mean"] = "own"
    """Whose confidence a view gets: its own or, as controls, that of another view or the mean of the batch."""


class AutoAugment(Section):
    table: Literal["cifar10", "svhn", "imagenet"] = "cifar10"
    """Which learned table of sub-policies (Cubuk et al. 2019)."""
    scale: Literal["agmax", "torchvision"] = "agmax"
    """Which program's meaning of the magnitudes."""


class RandAugment(Section):
    definition: Literal["torchvision", "agmax"] = "torchvision"
    """Which program's operations and probabilities; AgMax's leaves half of the images as they are."""
    num_operations: Count = 2
    """Operations of an image, one after another."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of all operations, of 30; the definition agmax draws a strength for each instead."""


class ColorJitter(Section):
    """How far factors lie from 1 at most, each drawn for every image; 0 leaves it out."""

    brightness: Strength = 0.0
    """Largest distance of the brightness factor from 1."""
    contrast: Strength = 0.0
    """Largest distance of the contrast factor from 1."""
    saturation: Strength = 0.0
    """Largest distance of the saturation factor from 1."""


class Lighting(Section):
    std: Strength = 0.0
    """Standard deviation of the light added along each principal colour of ImageNet (Krizhevsky et al. 2012)."""


class CutOut(Section):
    share: Share = 0.5
    """Side of the erased square, as a share of the image's side."""


class RandomErasing(Section):
    probability: Share = 0.5
    """Share of the images of which a box is erased."""
    scale: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.02, 0.33]
    """Smallest and largest area of the box, as a share of the image."""
    ratio: Annotated[list[Annotated[float, Field(ge=0.01, le=100)]], Field(min_length=2, max_length=2)] = [0.3, 10 / 3]
    """Smallest and largest height over width."""


class MixUp(Section):
    alpha: NonNegative = 0.2
    """The ratio is drawn from Beta(alpha, alpha)."""


class CutMix(Section):
    probability: Share = 1.0
    """Share of the batches that are mixed."""
    beta: Positive = 1.0
    """The ratio is drawn from Beta(beta, beta)."""


WORDS: dict[str, dict[str, None]] = {
    "crop": dict.fromkeys(("none", "standard", "random_resized", "soft", "wide")),
    "policy": dict.fromkeys(("none", "auto_augment", "rand_augment", "trivial_augment")),
    "erase": dict.fromkeys(("none", "cutout", "random_erasing", "soft_cutout", "soft_random_erasing")),
    "mix": dict.fromkeys(("none", "mixup", "cutmix")),
}
"""What each slot can be filled with."""

SOFTENS = {"soft", "soft_cutout", "soft_random_erasing"}
"""Words whose hiding softens the targets."""


class Augment(OpenSection):
    words: ClassVar[tuple[str, ...]] = tuple(WORDS)
    joined: ClassVar[dict[str, dict[str, Joined]]] = {}

    crop: Annotated[str, KeyOf(WORDS["crop"])] = "standard"
    """How a view is cut out of its image."""
    flip: bool = True
    """Mirror every second view, left to right."""
    policy: Annotated[str, KeyOf(WORDS["policy"])] = "none"
    """Which image operations are drawn for every image."""
    erase: Annotated[str, KeyOf(WORDS["erase"])] = "none"
    """A word that begins with soft_ takes the settings of the word without it."""
    mix: Annotated[str, KeyOf(WORDS["mix"])] = "none"
    """How images of a batch are mixed with one another."""
    views: Literal["independent", "identical", "same_class"] = "independent"
    """What the views of an image are: drawn apart; all alike; or, as a control, of other images of its class."""
    standard: Standard = Standard()
    random_resized: RandomResized = RandomResized()
    final_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the epochs, the last ones, rounded down, that train with hardly any of what hides or mixes images."""
    final_divisor: Annotated[float, Field(ge=1, le=1e6)] = 1000.0
    """What sigma and the side of erased boxes are divided by in those epochs; nothing is mixed in them."""
    soft: Soft = Soft()
    softening: Softening = Softening()
    auto_augment: AutoAugment = AutoAugment()
    rand_augment: RandAugment = RandAugment()
    color_jitter: ColorJitter = ColorJitter()
    lighting: Lighting = Lighting()
    cutout: CutOut = CutOut()
    random_erasing: RandomErasing = RandomErasing()
    mixup: MixUp = MixUp()
    cutmix: CutMix = CutMix()
