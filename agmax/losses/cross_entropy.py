"""Cross-entropy with target rows, its KL and focal variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_MISS = 1e-12
"""The focal factor's missing probability is clamped to at least this, so that its power has a finite gradient."""


def soft_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    *,
    subtract_entropy: bool = False,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Return the mean cross-entropy of logits [N, V, K] with target rows [N, V, K], weighted by [N, V].

    Without weights every view has weight 1. With `subtract_entropy` it is the KL divergence from the rows, which is 0
    if prediction and row are equal. Smoothed, mixed and softened targets are rows like any other (Szegedy et al. 2016;
    Zhang et al. 2018). With `focal_gamma` the loss of a view is multiplied by (1 - exp(-d)) ** focal_gamma, where d is
    that divergence. For a hard target p = exp(-d) is the probability of its class (Lin et al. 2017, eq. 4).

    Raises:
        ValueError: the targets are not rows of probabilities of the logits' shape, such as class numbers.
    """
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets (soft_cross_entropy): shape {list(targets.shape)} with logits {list(logits.shape)}. "
            "Give a row of K probabilities for each row of logits, such as one_hot(labels, K).float()"
        )
    losses = -(targets * logits.log_softmax(-1)).sum(-1)  # [N, V]
    divergences = losses - target_entropy(targets) if subtract_entropy or focal_gamma else losses
    if subtract_entropy:
        losses = divergences
    if focal_gamma:
        losses = losses * (-(-divergences).expm1()).clamp(min=SMALLEST_MISS) ** focal_gamma
    return (losses if weights is None else weights * losses).mean()


def target_entropy(targets: Tensor) -> Tensor:
    """Return the entropy of each row of probabilities [..., K], in nats."""
    return -targets.xlogy(targets).sum(-1)
