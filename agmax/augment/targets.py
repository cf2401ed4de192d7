"""Soften targets as less of the image is visible (Liu et al. 2023)."""

from torch import Tensor


def counted(visible: Tensor, visibility: str) -> Tensor:
    """Return what the curve starts from: the visible share v (`area`), or v / (2 - v) (`iou`).

    That is the intersection over union of image and window, which have v of an image in common and cover 2 - v of it.
    """
    return visible / (2 - visible) if visibility == "iou" else visible


def confidence(visible: Tensor, *, num_classes: int, power: float, max_confidence: float) -> Tensor:
    """Return how sure a target may be of its class, from the visible share, of any shape (Liu et al. 2023).

    A share of 1 gives `max_confidence`, 0 gives chance, 1 / num_classes. With 10 classes and power 2, half an image
    gives 1 - 0.9 * 0.5 ** 2 = 0.775.
    """
    chance = 1 / num_classes
    highest = max(max_confidence, chance)
    return highest - (highest - chance) * (1 - visible) ** power


def softened(targets: Tensor, confidence: Tensor) -> Tensor:
    """Blend target rows [..., K] with the uniform row until a certain class keeps `confidence` [...].

    The other classes share the rest evenly: with 10 classes and confidence 0.775 each has 0.025.
    """
    chance = 1 / targets.shape[-1]
    share = ((confidence - chance) / (1 - chance)).clamp(max=1)[..., None]  # a rounding above 1, of 31 classes for one
    return targets * share + (1 - share) * chance
