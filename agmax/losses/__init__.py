"""The losses of AgMax and of the methods that it is compared with, on plain tensors."""

from agmax.losses.agreement import (
    consistency,
    cross_entropy_of_views,
    feature_distance,
    jensen_shannon,
    kl_divergence,
    negative_marginal_entropy,
    squared_distance,
    stop_gradient_kl,
    symmetric_kl,
)
from agmax.losses.cross_entropy import soft_cross_entropy, target_entropy
from agmax.losses.objectives import OBJECTIVES, AgMaxLoss, Criterion, Losses, Objective, Term, objective

__all__ = [
    "OBJECTIVES",
    "AgMaxLoss",
    "Criterion",
    "Losses",
    "Objective",
    "Term",
    "consistency",
    "cross_entropy_of_views",
    "feature_distance",
    "jensen_shannon",
    "kl_divergence",
    "negative_marginal_entropy",
    "objective",
    "soft_cross_entropy",
    "squared_distance",
    "stop_gradient_kl",
    "symmetric_kl",
    "target_entropy",
]
