"""The metrics of an evaluation: a table of pure functions of logits [N, K] and labels [N].

torch is imported inside the functions, so that study files can be checked against the table without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

NUM_BINS = 10


class Metric(NamedTuple):
    """A metric: its function, its unit and how it is printed and compared."""

    function: Callable[[Tensor, Tensor], float] | None  # of logits and labels; None for a complement
    unit: str
    decimals: int
    higher_is_better: bool = False
    complement: str = ""  # this metric is 100 minus the named one; it is computed for tables and not stored


def top1(logits: Tensor, labels: Tensor) -> float:
    """Return the percentage of images whose class has the highest logit."""
    return 100 * num_correct(logits, labels, k=1) / len(labels)


def top5(logits: Tensor, labels: Tensor) -> float:
    """Return the percentage of images whose class is among the five highest logits, or all K if K < 5."""
    return 100 * num_correct(logits, labels, k=5) / len(labels)


def num_correct(logits: Tensor, labels: Tensor, *, k: int) -> int:
    """Count the images whose label is among the k highest logits; k is limited to the number of classes.

    If several logits are equally high, as happens in bfloat16, the first is the prediction, as in `predictions.npz`.
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
    """Return the mean absolute gap between accuracy and confidence, a fraction (Guo et al. 2017, eq. 3).

    The bins have equal width and include their right edge.
    """
    import torch

    confidence, predicted = logits.double().softmax(-1).max(-1)
    correct = (predicted == labels).double()
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)[1:-1]
    bins = torch.bucketize(confidence, edges)
    gaps = torch.zeros(num_bins, dtype=torch.float64).index_add_(0, bins, correct - confidence)
    return float(gaps.abs().sum() / len(labels))


def per_class(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, float | None]:
    """Return the accuracy of each class in percent, None for a class without images."""
    num_images = labels.bincount(minlength=len(class_names))
    num_correct = labels[logits.argmax(-1) == labels].bincount(minlength=len(class_names))
    rows = zip(class_names, num_correct.tolist(), num_images.tolist(), strict=True)
    return {name: 100 * correct / total if total else None for name, correct, total in rows}


METRICS: dict[str, Metric] = {
    "error": Metric(None, "%", 2, complement="top1"),
    "top1": Metric(top1, "%", 2, higher_is_better=True),
    "top5": Metric(top5, "%", 2, higher_is_better=True),
    "nll": Metric(negative_log_likelihood, "nats", 4),
    "ece": Metric(expected_calibration_error, "fraction", 4),
}
"""The metrics by name, in the order in which logs, results, studies and tables list them."""


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the value of every metric that is computed from predictions."""
    return {name: metric.function(logits, labels) for name, metric in METRICS.items() if metric.function}


def computed_metrics() -> list[str]:
    """Return the names of the metrics that are computed from predictions."""
    return [name for name, metric in METRICS.items() if metric.function]


def add_complements(values: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics in `values` and their complements, in the order of the table."""
    complements = {
        name: 100 - values[metric.complement] for name, metric in METRICS.items() if metric.complement in values
    }
    both = {**values, **complements}
    return {name: both[name] for name in METRICS if name in both}
