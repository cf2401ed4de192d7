"""What a training step minimises: a sum of named terms, each with its weight."""

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor

from agmax.core.batch import Batch, Outputs
from agmax.losses import agreement
from agmax.losses.cross_entropy import classification

Term = Callable[[Outputs], Tensor]

OBJECTIVES: dict[str, dict[str, Term]] = {
    "classification": {},
    "agmax": {"agreement": agreement.mutual_information, "consistency": agreement.consistency},
    "agmax_mse": {"agreement": agreement.squared_distance},
    "agmax_kl": {"agreement": agreement.divergence},
    "agmax_ce": {"agreement": agreement.cross_entropy},
    "js": {"agreement": agreement.jensen_shannon},
    "symmetric_kl": {"agreement": agreement.symmetric_divergence},
    "stop_gradient": {"agreement": agreement.stopped_divergence},
    "tied_features": {"agreement": agreement.feature_distance},
}
"""The terms that each objective adds to classification."""

NEEDS_Q_NETWORK = frozenset({"agmax"})
NEEDS_FEATURES = frozenset({"tied_features"})


class Objective(Protocol):
    """The gathered outputs and the batch -> named terms; their sum is minimised."""

    def __call__(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]: ...


def objective(
    name: str, weights: Mapping[str, float], *, subtract_entropy: bool = False, focal_gamma: float = 0.0
) -> Objective:
    """Make the objective `name` of OBJECTIVES; `weights` holds one for `classification` and for every term.

    A weight of 0 leaves its term out of the gradient exactly; the term still has its column, of zeros.
    """
    terms = OBJECTIVES[name]

    def losses(outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        fit = classification(
            outputs.logits,
            batch.targets,
            batch.weights,
            subtract_entropy=subtract_entropy,
            focal_gamma=focal_gamma,
        )
        named = {"classification": weights["classification"] * fit}
        return named | {term: weights[term] * function(outputs) for term, function in terms.items()}

    return losses
