"""How well the answers for the views of one image agree: the terms of AgMax (Atienza 2022) and their rivals."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from agmax.core.batch import Outputs

SMALLEST_PROBABILITY = torch.finfo(torch.float64).eps
"""Marginals below it count as it before the logarithm, as in the AgMax program."""


def mutual_information(outputs: Outputs) -> Tensor:
    """Return the negative entropy of the batch's class shares, averaged over the views and the Q network.

    It falls as the predictions of a batch spread over the classes; uniform ones give -log K. This is AgMax's entropy
    term, of weight 1 in its program.
    """
    shares = outputs.logits.softmax(-1).mean(0)  # [V, K]
    joint = _joint(outputs).softmax(-1).mean(0)
    marginals = torch.cat([shares, joint[None]])  # [V + 1, K]
    marginals = (marginals / marginals.sum(-1, keepdim=True)).clamp(min=SMALLEST_PROBABILITY)
    return (marginals * marginals.log()).sum(-1).mean()


def consistency(outputs: Outputs) -> Tensor:
    """Return the mean absolute distance of the Q network's prediction [N, K] from each view's [N, V, K].

    This is AgMax's consistency term, of weight 4 in its program (--dl-weight).
    """
    joint = _joint(outputs).softmax(-1)
    return (joint[:, None] - outputs.logits.softmax(-1)).abs().mean()


def squared_distance(outputs: Outputs) -> Tensor:
    """Return the mean squared difference of the two views' logits."""
    first, second = outputs.logits.unbind(1)
    return functional.mse_loss(first, second)


def divergence(outputs: Outputs) -> Tensor:
    """Return KL(second view || first view), summed over the classes, averaged over the images."""
    first, second = outputs.logits.log_softmax(-1).unbind(1)
    return _divergence(second, first).mean()


def cross_entropy(outputs: Outputs) -> Tensor:
    """Return the cross-entropy of the second view with the first as target, averaged over images and classes.

    The mean over classes is the AgMax program's; it makes the term K times smaller than the usual cross-entropy.
    """
    first, second = outputs.logits.log_softmax(-1).unbind(1)
    return -(first.exp() * second).mean()


def jensen_shannon(outputs: Outputs) -> Tensor:
    """Return the Jensen-Shannon divergence of all views' predictions, at most log V, averaged over the images.

    It is the mean over the views of KL(view || mean of the views) (Hendrycks et al. 2020, AugMix).
    """
    views = outputs.logits.log_softmax(-1)  # [N, V, K]
    mixture = views.logsumexp(1, keepdim=True) - math.log(views.shape[1])  # [N, 1, K]
    return _divergence(views, mixture).mean()


def symmetric_divergence(outputs: Outputs) -> Tensor:
    """Return the mean of KL(first view || second) and KL(second || first), averaged over the images.

    Liang et al. 2021 (R-Drop) compare two dropouts of one image so; here they are two augmentations.
    """
    first, second = outputs.logits.log_softmax(-1).unbind(1)
    return ((_divergence(first, second) + _divergence(second, first)) / 2).mean()


def stopped_divergence(outputs: Outputs) -> Tensor:
    """Return KL(first view || second), averaged over the images; no gradient flows through the first view.

    It is the consistency of UDA (Xie et al. 2020), without its mask of confident predictions.
    """
    first, second = outputs.logits.log_softmax(-1).unbind(1)
    return _divergence(first.detach(), second).mean()


def feature_distance(outputs: Outputs) -> Tensor:
    """Return the mean squared difference of the two views' pooled features, over images and features.

    Kurtulus et al. 2023 (Tied-Augment); their program does not normalise the features either.
    """
    assert outputs.features is not None, "this term needs the features"
    first, second = outputs.features.unbind(1)
    return functional.mse_loss(first, second)


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(first || second) in nats [...] of log probabilities [..., K]."""
    return (first.exp() * (first - second)).sum(-1)


def _joint(outputs: Outputs) -> Tensor:
    assert outputs.joint_logits is not None, "this term needs the Q network"
    return outputs.joint_logits
