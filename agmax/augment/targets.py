"""Target rows and weights: label smoothing, and softening by the visible fraction."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from agmax.augment.checks import check_choice, check_range
from agmax.augment.key import Key


def smoothed_one_hot(labels: Tensor, num_classes: int, *, smoothing: float = 0.0) -> Tensor:
    """Return target rows [N, K] for labels [N]: 1 - smoothing on the class, the rest evenly over all K classes."""
    rows = functional.one_hot(labels, num_classes).float()
    return rows * (1 - smoothing) + smoothing / num_classes if smoothing else rows


def soften(
    targets: Tensor, visible: Tensor, *, power: float = 2.0, max_confidence: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Soften target rows [..., K] by the visible fractions [...] of their images; return rows and weights [...].

    A class of probability 1 gets the probability `confidence`, which is also the weight in the loss (Liu et al. 2023).
    """
    return Softening(power=power, max_confidence=max_confidence)(targets, visible)


@dataclass(frozen=True)
class Softening:
    """Soften targets, weight views, or both, by a confidence that depends on the visible fraction (Liu et al. 2023).

    `visibility` measures what is visible: the fraction of the area (`area`) or the intersection over union (`iou`).
    `confidence_source` chooses the confidence of a view: its `own`, that of another view of the batch (`shuffled`) or
    the mean of the batch (`mean`). `reweight` gives each view its own weight (`image`) or all views their mean
    (`batch_mean`). In a pipeline, `occluded_by` names the slots whose occlusion softens targets; None means all.
    """

    applies_to: str = "target_and_weight"
    visibility: str = "area"
    power: float = 2.0
    max_confidence: float = 1.0
    reweight: str = "image"
    confidence_source: str = "own"
    occluded_by: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_choice(self, "applies_to", ("target_and_weight", "target", "weight"))
        check_choice(self, "visibility", ("area", "iou"))
        check_choice(self, "reweight", ("image", "batch_mean"))
        check_choice(self, "confidence_source", ("own", "shuffled", "mean"))
        check_range(self, "power")
        check_range(self, "max_confidence", high=1)

    def confidence(self, visible: Tensor, num_classes: int) -> Tensor:
        """Return the confidence for visible fractions of any shape, before it is shuffled or averaged."""
        return confidence(
            visible_overlap(visible, self.visibility),
            num_classes=num_classes,
            power=self.power,
            max_confidence=self.max_confidence,
        )

    def __call__(self, targets: Tensor, visible: Tensor, *, key: Key | None = None) -> tuple[Tensor, Tensor]:
        """Return target rows [..., K] and weights [...] for the visible fractions [...] of a complete batch.

        Confidences are shuffled by the key, or by a fresh one.
        """
        confidences = self.confidence(visible, targets.shape[-1])
        if self.confidence_source == "shuffled":
            order = torch.from_numpy((key or Key.fresh()).rng("softening").permutation(confidences.numel()))
            confidences = confidences.flatten()[order.to(confidences.device)].view_as(confidences)
        elif self.confidence_source == "mean":
            confidences = confidences.mean().expand_as(confidences)
        weights = confidences.mean().expand_as(confidences) if self.reweight == "batch_mean" else confidences
        return (
            targets if self.applies_to == "weight" else blend_with_uniform(targets, confidences),
            torch.ones_like(weights) if self.applies_to == "target" else weights,
        )


def targets_of_views(
    rows: Tensor, num_views: int, *, softening: Softening | None, visible: Tensor | None, key: Key
) -> tuple[Tensor, Tensor]:
    """Return targets [N, V, K] and weights [N, V] for the views of images with target rows [N, K].

    They are softened by the visible fractions [N, V]; without softening the weights are 1.
    """
    targets = rows[:, None].expand(-1, num_views, -1)
    if softening is None or visible is None:
        return targets, torch.ones(len(rows), num_views, device=rows.device)
    return softening(targets, visible, key=key)


def visible_overlap(visible: Tensor, visibility: str) -> Tensor:
    """Return the visible fraction v (`area`), or the intersection over union of image and crop, v / (2 - v) (`iou`).

    Image and crop have the same area; their intersection is v and their union 2 - v of it.
    """
    return visible / (2 - visible) if visibility == "iou" else visible


def confidence(visible: Tensor, *, num_classes: int, power: float, max_confidence: float) -> Tensor:
    """Return the probability of a softened target's class for visible fractions of any shape (Liu et al. 2023).

    A fraction of 1 gives `max_confidence`, 0 gives chance, 1 / num_classes. With 10 classes and power 2, a fraction of
    0.5 gives 1 - 0.9 * 0.5 ** 2 = 0.775.
    """
    chance = 1 / num_classes
    highest = max(max_confidence, chance)
    return highest - (highest - chance) * (1 - visible) ** power


def blend_with_uniform(targets: Tensor, confidence: Tensor) -> Tensor:
    """Blend target rows [..., K] with the uniform row, so that a class of probability 1 gets `confidence` [...].

    The rest is divided evenly over the other classes: with 10 classes and confidence 0.775 each has 0.025.
    """
    chance = 1 / targets.shape[-1]
    ratio = (confidence - chance) / (1 - chance)
    ratio = ratio.clamp(max=1)[..., None]  # rounding can exceed 1, for instance with 31 classes
    return targets * ratio + (1 - ratio) * chance
