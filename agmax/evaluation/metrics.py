"""What predictions are worth: a table of pure functions of logits [N, K] and labels [N].

Nothing here imports torch before it computes, so that a study can be read against the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

NUM_BINS = 10


class Metric(NamedTuple):
    """How a metric is computed, and how it is written and compared."""

    function: Callable[[Tensor, Tensor], float] | None  # of logits and labels; None where it is a complement
    unit: str
    decimals: int
    higher_is_better: bool = False
    complement: str = ""  # the metric of which it is 100 less the value; it is computed from records, and not kept


def top1(logits: Tensor, labels: Tensor) -> float:
    """Return the percentage of images whose class has the highest logit."""
    return 100 * num_correct(logits, labels, k=1) / len(labels)


def top5(logits: Tensor, labels: Tensor) -> float:
    """Return the percentage of images whose class is among the five highest logits; of K < 5 classes among K."""
    return 100 * num_correct(logits, labels, k=5) / len(labels)


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
    from torch.nn import functional

    return float(functional.cross_entropy(logits.double(), labels))


def expected_calibration_error(logits: Tensor, labels: Tensor, *, num_bins: int = NUM_BINS) -> float:
    """Return the mean distance of accuracy from confidence over equal right-closed bins (Guo et al. 2017, eq. 3)."""
    import torch

    confidence, predicted = logits.double().softmax(-1).max(-1)
    correct = (predicted == labels).double()
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)[1:-1]
    bins = torch.bucketize(confidence, edges)
    gaps = torch.zeros(num_bins, dtype=torch.float64).index_add_(0, bins, correct - confidence)
    return float(gaps.abs().sum() / len(labels))


def per_class(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, float | None]:
    """Return the accuracy of each class in percent, None where a class has no image."""
    count = labels.bincount(minlength=len(class_names))
    right = labels[logits.argmax(-1) == labels].bincount(minlength=len(class_names))
    pairs = zip(class_names, right.tolist(), count.tolist(), strict=True)
    return {name: 100 * correct / total if total else None for name, correct, total in pairs}


METRICS: dict[str, Metric] = {
    "error": Metric(None, "%", 2, complement="top1"),
    "top1": Metric(top1, "%", 2, higher_is_better=True),
    "top5": Metric(top5, "%", 2, higher_is_better=True),
    "nll": Metric(negative_log_likelihood, "nats", 4),
    "ece": Metric(expected_calibration_error, "fraction", 4),
}
"""The metrics by name: rows, results, records, studies and tables have those of this table, in its order."""


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return every metric of the table that is computed from predictions."""
    return {name: metric.function(logits, labels) for name, metric in METRICS.items() if metric.function}


def computed_metrics() -> list[str]:
    """Return the names of the metrics that are computed from predictions."""
    return [name for name, metric in METRICS.items() if metric.function]


def add_complements(values: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics among `values`, in the order of the table, and the complements of these."""
    found = {name: 100 - values[metric.complement] for name, metric in METRICS.items() if metric.complement in values}
    return {name: {**values, **found}[name] for name in METRICS if name in values or name in found}
