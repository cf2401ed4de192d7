"""What a training step minimises: a sum of named terms, each with its weight."""

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor

from agmax.batch import Batch, Outputs
from agmax.objectives import agreement
from agmax.objectives.classification import classification

Term = Callable[[Outputs], Tensor]

OBJECTIVES: dict[str, dict[str, Term]] = {
    "classification": {},
    "agmax": {"agreement": agreement.mutual_information, "consistency": agreement.consistency},
    "agmax_mse": {"agreement": agreement.squared_distance},
    "agmax_kl": {"agreement": agreement.divergence},
    "agmax_ce": {"agreement": agreement.cross_entropy},
}
"""The terms that each objective adds to classification."""

NEEDS_Q_NETWORK = frozenset({"agmax"})


class Objective(Protocol):
    """The gathered outputs and the batch -> named terms; their sum is minimised."""

    def __call__(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]: ...


def objective(name: str, weights: Mapping[str, float], *, subtract_entropy: bool = False) -> Objective:
    """Make the objective `name` of OBJECTIVES; `weights` holds one for `classification` and for every term."""
    terms = OBJECTIVES[name]

    def losses(outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        fit = classification(outputs.logits, batch.targets, batch.weights, subtract_entropy=subtract_entropy)
        named = {"classification": weights["classification"] * fit}
        return named | {term: weights[term] * function(outputs) for term, function in terms.items()}

    return losses
