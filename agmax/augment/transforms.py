"""The parts that can fill the slots of the pipeline: each draws its numbers and applies them.

To add one: a function on batches in the module it belongs to, a maker and a line of a table here, its word and settings
in config/augmentation.py, and a fragment in configs/augment; tests say what is missing.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from agmax.augment import color, erasing, geometry, mixing, operations, policies, soft_crop
from agmax.augment import targets as softening
from agmax.augment.pipeline import Draw, Hide, Mix, Slot, Soften


def crop(padding: int) -> Slot:
    """Make the slot of the standard crop: a window of the image's size, up to `padding` pixels aside."""

    def change(images: Tensor, draw: Draw) -> Tensor:
        top, left = draw.each(
            "crop", lambda n, rng: geometry.crop_corners(n, padding=padding, rng=rng), device=images.device
        )
        return geometry.crop(images, top, left, padding=padding)

    return change


def flip() -> Slot:
    """Make the slot that mirrors half of the views."""

    def change(images: Tensor, draw: Draw) -> Tensor:
        (chosen,) = draw.each("flip", lambda n, rng: (geometry.coins(n, rng=rng),), device=images.device)
        return geometry.flip(images, chosen)

    return change


def auto_augment(table: str, scale: str) -> Slot:
    """Make the slot of a learned policy."""
    return _policy(
        "policy",
        lambda n, size, rng: policies.auto_augment(n, *size, table=table, scale=scale, rng=rng),
    )


def rand_augment(definition: str, num_operations: int, magnitude: int) -> Slot:
    """Make the slot of random operations of one strength."""
    return _policy(
        "policy",
        lambda n, size, rng: policies.rand_augment(
            n, *size, definition=definition, num_operations=num_operations, magnitude=magnitude, rng=rng
        ),
    )


def trivial_augment() -> Slot:
    """Make the slot of one random operation of any strength."""
    return _policy("policy", lambda n, size, rng: policies.trivial_augment(n, *size, rng=rng))


def color_jitter(brightness: float, contrast: float, saturation: float) -> Slot:
    """Make the slot that changes brightness, contrast and saturation in random order."""
    return _policy(
        "color jitter",
        lambda n, _, rng: policies.color_jitter(
            n, brightness=brightness, contrast=contrast, saturation=saturation, rng=rng
        ),
    )


def _policy(purpose: str, draw_for: Callable[[int, tuple[int, int], np.random.Generator], policies.Plan]) -> Slot:
    """Make a slot that applies drawn operations, one position after another."""

    def change(images: Tensor, draw: Draw) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        drawn = draw.each(purpose, lambda n, rng: map(torch.from_numpy, draw_for(n, size, rng)))
        codes, values = (numbers.numpy() for numbers in drawn)
        for position in range(codes.shape[1]):
            images = operations.applied(images, codes[:, position], values[:, position])
        return images

    return change


def lighting(std: float, deviation: list[float]) -> Slot:
    """Make the slot that adds light of ImageNet's colours; `deviation` is what the images were divided by."""

    def change(images: Tensor, draw: Draw) -> Tensor:
        (amounts,) = draw.each("lighting", lambda n, rng: (color.lighting_amounts(n, std=std, rng=rng),))
        return color.add_light_(images, amounts, torch.tensor(deviation))

    return change


def cutout(share: float) -> Hide:
    """Make the slot that erases a square of `share` times the side."""
    return _eraser(
        "cutout",
        lambda n, height, width, rng: erasing.cutout_boxes(n, height, width, length=round(share * height), rng=rng),
    )


def random_erasing(probability: float, scale: tuple[float, float], ratio: tuple[float, float]) -> Hide:
    """Make the slot that erases a box of random size from some of the images."""
    return _eraser(
        "random erasing",
        lambda n, height, width, rng: erasing.random_erasing_boxes(
            n, height, width, probability=probability, scale=scale, ratio=ratio, rng=rng
        ),
    )


def _eraser(purpose: str, boxes: Callable[[int, int, int, np.random.Generator], erasing.Boxes]) -> Hide:
    def change(images: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        height, width = images.shape[-2:]
        edges = draw.each(purpose, lambda n, rng: boxes(n, height, width, rng), device=images.device)
        erased = erasing.Boxes(*edges)
        return erasing.erase_(images, erased), erasing.visible_share(erased, height=height, width=width)

    return change


def window(sigma: float, background: float) -> Hide:
    """Make the slot of the soft crop: the images seen through a window far aside, and how much of each it shows."""

    def change(images: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        height, width = images.shape[-2:]
        down, right = draw.each(
            "soft crop",
            lambda n, rng: soft_crop.soft_crop_offsets(n, height, width, sigma=sigma, rng=rng),
            device=images.device,
        )
        (colors,) = draw.each(
            "background",
            lambda n, rng: (soft_crop.backgrounds(n, images.shape[1], std=background, rng=rng).float(),),
            device=images.device,
        )
        share = soft_crop.visible_share(down, right, height=height, width=width)
        return geometry.window(images, down, right, background=colors), share

    return change


def soften(
    num_classes: int,
    visibility: str = "area",
    power: float = 2.0,
    max_confidence: float = 1.0,
    applies_to: str = "target_and_weight",
    reweight: str = "image",
    link: str = "own",
) -> Soften:
    """Make what softens targets, weights each view, or both, by the confidence that its visible share leaves it.

    `visibility` says whether that is the share as it is (`area`) or the intersection over union (`iou`), `link` whose
    confidence a view gets: its `own`, another's of the batch (`shuffled`) or the batch's `mean`, and `reweight`
    whether views are weighted one by one (`image`) or all by their mean (`batch_mean`).
    """

    def change(targets: Tensor, visible: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        counted = softening.counted(visible, visibility)
        confidence = softening.confidence(counted, num_classes=num_classes, power=power, max_confidence=max_confidence)
        if link == "shuffled":
            order = torch.from_numpy(rng.permutation(confidence.numel())).to(confidence.device)
            confidence = confidence.flatten()[order].view_as(confidence)
        elif link == "mean":
            confidence = confidence.mean().expand_as(confidence)
        weights = confidence.mean().expand_as(confidence) if reweight == "batch_mean" else confidence
        return (
            targets if applies_to == "weight" else softening.softened(targets, confidence),
            torch.ones_like(weights) if applies_to == "target" else weights,
        )

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


CROPS: dict[str, Callable[..., Slot]] = {"standard": crop}
POLICIES: dict[str, Callable[..., Slot]] = {
    "auto_augment": auto_augment,
    "rand_augment": rand_augment,
    "trivial_augment": trivial_augment,
}
WINDOWS: dict[str, Callable[..., Hide]] = {"soft": window, "wide": window}
ERASERS: dict[str, Callable[..., Hide]] = {
    "cutout": cutout,
    "random_erasing": random_erasing,
    "soft_cutout": cutout,
    "soft_random_erasing": random_erasing,
}
MIXERS: dict[str, Callable[..., Mix]] = {"mixup": mixup, "cutmix": cutmix}
"""The parts that can fill a slot, by the word of the configuration; each takes that word's block of settings."""

SETTINGS_OF = {"wide": "soft", "soft_cutout": "cutout", "soft_random_erasing": "random_erasing"}
"""Words that share the block of another."""

SOFTENS = frozenset({"soft", "soft_cutout", "soft_random_erasing"})
"""Words whose hiding softens the targets."""
