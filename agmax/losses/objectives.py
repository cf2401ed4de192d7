"""The table of objectives: what a training step minimizes, a sum of named terms with their published weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, NamedTuple

from agmax.core.errors import UsageError
from agmax.losses import agreement
from agmax.losses.cross_entropy import soft_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

    from agmax.core.batch import Batch, Outputs


class Losses(NamedTuple):
    """The loss and its terms."""

    total: Tensor  # scalar
    terms: dict[str, Tensor]  # scalars, each multiplied by its weight; they sum to the total


Criterion = Callable[["Outputs", "Batch"], Losses]
"""A function of the gathered outputs and the batch that returns the losses."""


class Term(NamedTuple):
    """One term of an objective beside classification."""

    function: Callable[..., Tensor]
    weight: float = 1.0  # as published
    takes: tuple[str, ...] = ("logits",)  # the function's arguments: fields of Outputs


class Objective(NamedTuple):
    """One row of the table: the terms that are added to classification, and the number of views."""

    terms: Mapping[str, Term]
    min_views: int = 1
    max_views: int | None = None  # None: any number from min_views on

    @property
    def needs(self) -> frozenset[str]:
        """Return the fields of Outputs beside the logits: joint_logits, from a Q network, or features."""
        return frozenset(name for term in self.terms.values() for name in term.takes) - {"logits"}

    @property
    def views(self) -> str:
        """Return a text with the number of views that it takes."""
        return f"compares {self.min_views} views" if self.max_views else f"needs at least {self.min_views} views"

    def is_for(self, num_views: int) -> bool:
        """Return whether it takes this number of views."""
        return self.min_views <= num_views and (self.max_views is None or num_views <= self.max_views)


BOTH = ("logits", "joint_logits")

OBJECTIVES: dict[str, Objective] = {
    "classification": Objective({}),
    "agmax": Objective(
        {
            "agreement": Term(agreement.negative_marginal_entropy, 1.0, BOTH),
            "consistency": Term(agreement.consistency, 4.0, BOTH),
        },
        min_views=2,
    ),
    "agmax_mse": Objective({"agreement": Term(agreement.squared_distance)}, 2, 2),
    "agmax_kl": Objective({"agreement": Term(agreement.kl_divergence)}, 2, 2),
    "agmax_ce": Objective({"agreement": Term(agreement.cross_entropy_of_views)}, 2, 2),
    "js": Objective({"agreement": Term(agreement.jensen_shannon, 12.0)}, min_views=2),
    "symmetric_kl": Objective({"agreement": Term(agreement.symmetric_kl, 0.3)}, 2, 2),
    "stop_gradient": Objective({"agreement": Term(agreement.stop_gradient_kl)}, 2, 2),
    "tied_features": Objective({"agreement": Term(agreement.feature_distance, 10.0, ("features",))}, 2, 2),
}
"""The objectives by name, for settings, networks and training."""


def hidden_units(num_classes: int) -> int:
    """Return the Q network's default width for a number of classes (the AgMax program's `--n-units 0`)."""
    tens = len(str(num_classes)) - 1
    return 128 * (2**tens if tens > 1 else 1) * (4 if num_classes >= 1000 else 1)


def objective(
    name: str,
    weights: Mapping[str, float] | None = None,
    *,
    subtract_entropy: bool = False,
    focal_gamma: float = 0.0,
) -> Criterion:
    """Return the objective `name` of OBJECTIVES; `weights` replace the published weights of the terms.

    A term of weight 0 has no effect on the gradient, and is reported as 0.

    Raises:
        UsageError: `weights` has a term that the objective does not have.
    """
    row, given = OBJECTIVES[name], dict(weights or {})
    unknown = given.keys() - {"classification", *row.terms}
    if unknown:
        why, remedy = f"{name} has no such term", f"Known: {', '.join(['classification', *row.terms])}"
        raise UsageError("unknown weight", where=", ".join(sorted(unknown)), why=why, remedy=remedy)
    classification_weight = given.get("classification", 1.0)
    weighted_terms = {key: (term, given.get(key, term.weight)) for key, term in row.terms.items()}

    def criterion(outputs: Outputs, batch: Batch) -> Losses:
        classification = soft_cross_entropy(
            outputs.logits,
            batch.targets,
            batch.weights,
            subtract_entropy=subtract_entropy,
            focal_gamma=focal_gamma,
        )
        terms = {"classification": classification_weight * classification}
        for key, (term, weight) in weighted_terms.items():
            terms[key] = weight * term.function(*(_field(outputs, field, name) for field in term.takes))
        return _weighted_sum(terms)

    return criterion


class AgMaxLoss:
    """The loss of AgMax on plain tensors: classification, agreement and consistency (Atienza 2022)."""

    def __init__(self, agreement_weight: float = 1.0, consistency_weight: float = 4.0) -> None:
        self.agreement_weight, self.consistency_weight = agreement_weight, consistency_weight

    def __call__(
        self, logits: Tensor, joint_logits: Tensor, targets: Tensor, *, weights: Tensor | None = None
    ) -> Losses:
        """Return the losses for logits [N, V, K], joint_logits [N, K], target rows [N, V, K] and weights [N, V]."""
        terms = {"classification": soft_cross_entropy(logits, targets, weights)}
        terms["agreement"] = self.agreement_weight * agreement.negative_marginal_entropy(logits, joint_logits)
        terms["consistency"] = self.consistency_weight * agreement.consistency(logits, joint_logits)
        return _weighted_sum(terms)


def _weighted_sum(terms: dict[str, Tensor]) -> Losses:
    return Losses(reduce(add, terms.values()), terms)


def _field(outputs: Outputs, field: str, objective_name: str) -> Tensor:
    value: Tensor | None = getattr(outputs, field)
    assert value is not None, f"the objective {objective_name} needs {field}"
    return value
