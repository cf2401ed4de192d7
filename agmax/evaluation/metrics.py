"""What predictions are worth: pure functions of logits [N, K] and labels [N]."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

NUM_BINS = 10


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return top1 and top5 in percent, nll in nats and ece as a share; with K < 5 classes top5 is top-K."""
    return {
        "top1": 100 * num_correct(logits, labels, k=1) / len(labels),
        "top5": 100 * num_correct(logits, labels, k=5) / len(labels),
        "nll": negative_log_likelihood(logits, labels),
        "ece": expected_calibration_error(logits, labels),
    }


def num_correct(logits: Tensor, labels: Tensor, *, k: int) -> int:
    """Count the images whose label is among the k highest logits; k is at most the number of classes.

    Of equal highest logits, which bfloat16 makes, the first is the prediction, as in `predictions.npz`.
    """
    if k == 1:
        return int((logits.argmax(-1) == labels).sum())
    top = logits.topk(min(k, logits.shape[1])).indices
    return int((top == labels[:, None]).any(-1).sum())


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Return the mean of -log p(label), in nats."""
    return float(functional.cross_entropy(logits.double(), labels))


def expected_calibration_error(logits: Tensor, labels: Tensor, *, num_bins: int = NUM_BINS) -> float:
    """Return the mean distance of accuracy from confidence over equal right-closed bins (Guo et al. 2017, eq. 3)."""
    confidence, predicted = logits.double().softmax(-1).max(-1)
    correct = (predicted == labels).double()
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)[1:-1]
    bins = torch.bucketize(confidence, edges)
    gaps = torch.zeros(num_bins, dtype=torch.float64).index_add_(0, bins, correct - confidence)
    return float(gaps.abs().sum() / len(labels))


def per_class(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, float | None]:
    """Return the accuracy of each class in percent, None where a class has no image."""
    count = torch.bincount(labels, minlength=len(class_names))
    right = torch.bincount(labels[logits.argmax(-1) == labels], minlength=len(class_names))
    pairs = zip(class_names, right.tolist(), count.tolist(), strict=True)
    return {name: 100 * correct / total if total else None for name, correct, total in pairs}
