"""How far the predictions are from their target rows."""

import torch
from torch import Tensor


def classification(logits: Tensor, targets: Tensor, weights: Tensor, *, subtract_entropy: bool = False) -> Tensor:
    """Return the mean cross-entropy of logits [N, V, K] with target rows [N, V, K], weighted by [N, V].

    With `subtract_entropy` it is the KL divergence from the rows, which is 0 where prediction and row are equal.
    Smoothed, mixed and softened targets are rows like any other (Szegedy et al. 2016; Zhang et al. 2018).
    """
    losses = -(targets * logits.log_softmax(-1)).sum(-1)
    if subtract_entropy:
        losses = losses - row_entropy(targets)
    return (weights * losses).mean()


def row_entropy(targets: Tensor) -> Tensor:
    """Return the entropy of each row of probabilities [..., K], in nats."""
    entropy: Tensor = -torch.special.xlogy(targets, targets).sum(-1)
    return entropy
