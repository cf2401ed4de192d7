"""Agreement losses between the views of an image: those of AgMax (Atienza 2022) and their alternatives.

Torch is imported only when a loss is computed, so that reading the settings with the table of objectives is fast.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_PROBABILITY = sys.float_info.epsilon
"""Marginals are clamped to at least this before the logarithm, as in the AgMax program."""


def negative_marginal_entropy(logits: Tensor, joint_logits: Tensor) -> Tensor:
    """Return the negative entropy of the batch's marginal class probabilities, in nats.

    For logits [N, V, K] and joint_logits [N, K]; averaged over the V views and the Q network. It is lowest, -log K,
    if the predictions of a batch are spread evenly over the classes. This is AgMax's entropy term, of weight 1 in its
    program, which calls it mutual information.
    """
    import torch

    of_views = logits.softmax(-1).mean(0)  # [V, K]
    joint = joint_logits.softmax(-1).mean(0)  # [K]
    marginals = torch.cat([of_views, joint[None]])  # [V + 1, K]
    marginals = (marginals / marginals.sum(-1, keepdim=True)).clamp(min=SMALLEST_PROBABILITY)
    return (marginals * marginals.log()).sum(-1).mean()


def consistency(logits: Tensor, joint_logits: Tensor) -> Tensor:
    """Return the mean absolute difference between the Q network's probabilities and those of each view.

    For logits [N, V, K] and joint_logits [N, K]. This is AgMax's consistency term, of weight 4 in its program
    (--dl-weight).
    """
    joint = joint_logits.softmax(-1)
    return (joint[:, None] - logits.softmax(-1)).abs().mean()


def squared_distance(logits: Tensor) -> Tensor:
    """Return the mean squared difference of two views' logits [N, 2, K] (AgMax, --mse)."""
    return _mean_square(logits)


def kl_divergence(logits: Tensor) -> Tensor:
    """Return KL(second view || first view) of logits [N, 2, K], summed over the classes, averaged over the images."""
    first, second = logits.log_softmax(-1).unbind(1)
    return _divergence(second, first).mean()


def cross_entropy_of_views(logits: Tensor) -> Tensor:
    """Return the cross-entropy of the second view with the first as target, averaged over images and classes.

    For logits [N, 2, K]. The mean over classes follows the AgMax program; it makes the term K times smaller than the
    usual cross-entropy.
    """
    first, second = logits.log_softmax(-1).unbind(1)
    return -(first.exp() * second).mean()


def jensen_shannon(logits: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of all views' predictions, at most log V, averaged over the images.

    For logits [N, V, K]. It is the mean over views of KL(view || mean of the views) (Hendrycks et al. 2020, AugMix).
    """
    views = logits.log_softmax(-1)  # [N, V, K]
    mixture = views.logsumexp(1, keepdim=True) - math.log(views.shape[1])  # [N, 1, K]
    return _divergence(views, mixture).mean()


def symmetric_kl(logits: Tensor) -> Tensor:
    """Return the mean of KL(first view || second) and KL(second || first) of logits [N, 2, K], averaged over images.

    Liang et al. 2021 (R-Drop) use it between two dropout masks of one image; here it is between two augmentations.
    """
    first, second = logits.log_softmax(-1).unbind(1)
    return ((_divergence(first, second) + _divergence(second, first)) / 2).mean()


def stop_gradient_kl(logits: Tensor) -> Tensor:
    """Return KL(first view || second) of logits [N, 2, K], averaged over images, without gradients of the first view.

    This is the consistency loss of UDA (Xie et al. 2020), without its confidence mask.
    """
    first, second = logits.log_softmax(-1).unbind(1)
    return _divergence(first.detach(), second).mean()


def feature_distance(features: Tensor) -> Tensor:
    """Return the mean squared difference of two views' pooled features [N, 2, F], over images and features.

    Kurtulus et al. 2023 (Tied-Augment); as in their program, the features are not normalized.
    """
    return _mean_square(features)


def _mean_square(views: Tensor) -> Tensor:
    from torch.nn import functional

    first, second = views.unbind(1)
    return functional.mse_loss(first, second)


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(first || second) [...] in nats of log probabilities [..., K]."""
    return (first.exp() * (first - second)).sum(-1)
