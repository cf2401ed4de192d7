"""How well the predictions for the views of one image agree (Atienza 2022, AgMax)."""

import torch
from torch import Tensor
from torch.nn import functional

from agmax.batch import Outputs

SMALLEST_PROBABILITY = torch.finfo(torch.float64).eps
"""Marginals below it count as it before the logarithm, as in the AgMax program."""


def mutual_information(outputs: Outputs) -> Tensor:
    """Return the negative entropy of the batch's class shares, averaged over the views and the Q network.

    It falls as the predictions of a batch spread over the classes; uniform ones give -log K.
    """
    shares = outputs.logits.softmax(-1).mean(0)  # [V, K]
    joint = _joint(outputs).softmax(-1).mean(0)
    marginals = torch.cat([shares, joint[None]])  # [V + 1, K]
    marginals = (marginals / marginals.sum(-1, keepdim=True)).clamp(min=SMALLEST_PROBABILITY)
    return (marginals * marginals.log()).sum(-1).mean()


def consistency(outputs: Outputs) -> Tensor:
    """Return the mean absolute distance of the Q network's prediction [N, K] from each view's [N, V, K]."""
    joint = _joint(outputs).softmax(-1)
    return (joint[:, None] - outputs.logits.softmax(-1)).abs().mean()


def squared_distance(outputs: Outputs) -> Tensor:
    """Return the mean squared difference of the two views' logits."""
    first, second = outputs.logits.unbind(1)
    return functional.mse_loss(first, second)


def divergence(outputs: Outputs) -> Tensor:
    """Return KL(second view || first view), summed over the classes, averaged over the images."""
    first, second = outputs.logits.log_softmax(-1).unbind(1)
    return (second.exp() * (second - first)).sum(-1).mean()


def cross_entropy(outputs: Outputs) -> Tensor:
    """Return the cross-entropy of the second view with the first as target, averaged over images and classes.

    The mean over classes is the AgMax program's; it makes the term K times smaller than the usual cross-entropy.
    """
    first, second = outputs.logits.log_softmax(-1).unbind(1)
    return -(first.exp() * second).mean()


def _joint(outputs: Outputs) -> Tensor:
    assert outputs.joint_logits is not None, "this term needs the Q network"
    return outputs.joint_logits
