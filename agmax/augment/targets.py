"""Make targets, the one place that does: rows of probabilities, smoothed, softened as less is visible, and weights."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from agmax.augment.checks import check_choice, check_range
from agmax.augment.key import Key


def smoothed_one_hot(labels: Tensor, num_classes: int, *, smoothing: float = 0.0) -> Tensor:
    """Return target rows [N, K] for labels [N]: 1 - smoothing on the class, the rest even over all K classes."""
    rows = functional.one_hot(labels, num_classes).float()
    return rows * (1 - smoothing) + smoothing / num_classes if smoothing else rows


def soften(
    targets: Tensor, visible: Tensor, *, power: float = 2.0, max_confidence: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Soften target rows [..., K] by the visible share [...] of their images, and return them and weights [...].

    A certain class keeps `confidence` of itself, which is its weight in the loss, too (Liu et al. 2023).
    """
    return Softening(power=power, max_confidence=max_confidence)(targets, visible)


@dataclass(frozen=True)
class Softening:
    """Soften targets, weigh each view, or both, by the confidence that its visible fraction allows (Liu et al. 2023).

    `visibility` is the measure of what is visible: the fraction of the area (`area`) or the intersection over union
    (`iou`). `confidence_source` says whose confidence a view gets: its `own`, that of another view of the batch
    (`shuffled`) or the mean of the batch (`mean`). `reweight` gives each view its own weight (`image`) or all views
    their mean (`batch_mean`). In a pipeline, `occluded_by` names the slots whose occlusion softens targets; None: all.
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

    def __call__(self, targets: Tensor, visible: Tensor, *, key: Key | None = None) -> tuple[Tensor, Tensor]:
        """Return target rows [..., K] and weights [...] for the visible shares [...] of a whole batch.

        Shuffled confidences are dealt by the key, or a fresh one.
        """
        sure = confidence(
            visible_overlap(visible, self.visibility),
            num_classes=targets.shape[-1],
            power=self.power,
            max_confidence=self.max_confidence,
        )
        if self.confidence_source == "shuffled":
            order = torch.from_numpy((key or Key.fresh()).rng("softening").permutation(sure.numel()))
            sure = sure.flatten()[order.to(sure.device)].view_as(sure)
        elif self.confidence_source == "mean":
            sure = sure.mean().expand_as(sure)
        weights = sure.mean().expand_as(sure) if self.reweight == "batch_mean" else sure
        return (
            targets if self.applies_to == "weight" else blend_with_uniform(targets, sure),
            torch.ones_like(weights) if self.applies_to == "target" else weights,
        )


def targets_of_views(
    rows: Tensor, num_views: int, *, softening: Softening | None, visible: Tensor | None, key: Key
) -> tuple[Tensor, Tensor]:
    """Give every view of an image its target row [N, K], softened by what is visible [N, V] of it, and its weight.

    Returns targets [N, V, K] and weights [N, V], which are 1 where nothing softens.
    """
    targets = rows[:, None].expand(-1, num_views, -1)
    if softening is None or visible is None:
        return targets, torch.ones(len(rows), num_views, device=rows.device)
    return softening(targets, visible, key=key)


def visible_overlap(visible: Tensor, visibility: str) -> Tensor:
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


def blend_with_uniform(targets: Tensor, confidence: Tensor) -> Tensor:
    """Blend target rows [..., K] with the uniform row until a certain class keeps `confidence` [...].

    The other classes share the rest evenly: with 10 classes and confidence 0.775 each has 0.025.
    """
    chance = 1 / targets.shape[-1]
    fraction = ((confidence - chance) / (1 - chance)).clamp(max=1)[
        ..., None
    ]  # a rounding above 1, of 31 classes for one
    return targets * fraction + (1 - fraction) * chance
