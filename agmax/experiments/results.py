"""The results of trainings and evaluations: metrics, predictions, and the summary of several runs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np

from agmax.evaluation.metrics import METRICS, computed_metrics
from agmax.evaluation.predict import Predictions

STANDARD = ("top1", "top5", "nll", "ece")
"""The metrics that every result has."""

FLOAT16_RANGE = (-65504.0, 65504.0)

ROBUSTNESS, PUBLISHED = ("occlusion", "offsets", "robustness_seconds"), ("published_top1", "sha256")
"""Optional keys of a result: measurements of robustness, and published numbers of a released file."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The result of evaluating one split."""

    mode: ClassVar[str] = "eval"

    config: str
    dataset: str
    split: str
    num_images: int
    values: dict[str, float]  # keys of METRICS: top1 and top5 in percent, nll in nats, ece as a fraction
    per_class: dict[str, float | None]  # top1 of each class in percent
    robustness: dict[str, Any]  # keys of ROBUSTNESS, if measured
    seed: int
    epochs: int
    run_folder: str | None
    checkpoint: str | None
    images_per_second: float | None
    seconds: float
    published: dict[str, Any] = field(default_factory=dict)  # keys of PUBLISHED, for a released file

    @property
    def top1(self) -> float:
        return self.values["top1"]

    @property
    def top5(self) -> float:
        return self.values["top5"]

    @property
    def nll(self) -> float:
        return self.values["nll"]

    @property
    def ece(self) -> float:
        return self.values["ece"]

    def to_dict(self) -> dict[str, Any]:
        """Return the object of --json: plain types, each metric under its own key, None for numbers not finite."""
        flat: dict[str, Any] = {"mode": self.mode}
        for each in fields(self):
            value = getattr(self, each.name)
            flat |= value if each.name in ("values", "robustness", "published") else {each.name: value}
        return {key: replace_nonfinite(value) for key, value in flat.items()}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """Return the result of a mapping from `to_dict`; unknown keys are metrics.

        Raises:
            ValueError: keys are missing, or a standard metric is not a number.
        """
        names = {each.name for each in fields(cls)} - {"values", "robustness", "published"}
        values: dict[str, Any] = {"values": {}, "robustness": {}, "published": {}}
        for key, value in mapping.items():
            if key in names:
                values[key] = value
            elif key != "mode":
                kind = "robustness" if key in ROBUSTNESS else "published" if key in PUBLISHED else "values"
                values[kind][key] = value
        missing = [each.name for each in fields(cls) if each.name not in values and each.default_factory is MISSING]
        metrics = values["values"]
        missing += [name for name in STANDARD if not isinstance(metrics.get(name, ""), int | float | NoneType)]
        if missing:
            raise ValueError(f"{', '.join(missing)} missing")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Result(Metrics):
    """The result of a training: the metrics of its final epoch, and facts about the training."""

    mode: ClassVar[str] = "train"

    run_folder: str
    checkpoint: str  # the file of the evaluated weights
    steps: int
    num_training_images: int
    samples_seen: int
    best: dict[str, Any]  # the best epoch, and the split that it was chosen on


def replace_nonfinite(value: Any) -> Any:
    """Return a copy of a nested value with None in place of nan and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: replace_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_nonfinite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_lines(result: Metrics) -> list[str]:
    """Return the result as lines of text: one with the metrics, and one for each measurement of robustness.

    With K < 5 classes top5 is printed as topK.
    """
    labels = {"top5": f"top{min(5, len(result.per_class))}"}
    values = []
    for name, value in result.values.items():
        metric = METRICS.get(name)  # None for a metric that is not registered in this process
        unit = " %" if metric and metric.unit == "%" else ""
        values.append(f"{labels.get(name, name)} {value:.{metric.decimals if metric else 4}f}{unit}")
    lines = [f"{result.split} of {result.dataset}, {result.num_images} images: {', '.join(values)}"]
    if "occlusion" in result.robustness:
        table = result.robustness["occlusion"]
        pairs = zip(table["fraction"], table["top1"], strict=True)
        lines.append("occluded: " + ", ".join(f"{100 * fraction:.0f} % top1 {top1:.2f}" for fraction, top1 in pairs))
    if "offsets" in result.robustness:
        table = result.robustness["offsets"]["along_axes"]
        pairs = zip(table["pixels"], table["top1"], strict=True)
        lines.append("offset: " + ", ".join(f"{pixels} px top1 {top1:.2f}" for pixels, top1 in pairs))
    return lines


def training_times(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the seconds spent training, and the images per second (the median of the epochs)."""
    timings = [row["timing"] for row in rows]
    speeds = [timing["images_per_second"] for timing in timings if timing["images_per_second"]]
    return {
        "images_per_second": statistics.median(speeds) if speeds else None,
        "seconds": sum(timing["train_seconds"] for timing in timings),
    }


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Summarize runs that differ only in their seed: mean, sample standard deviation, min and max of each metric."""
    runs = [result.to_dict() for result in results]
    common = {key: runs[0][key] for key in ("mode", "config", "dataset", "split", "num_images", "epochs")}
    spreads: dict[str, Any] = {}
    for metric in (name for name in computed_metrics() if all(name in result.values for result in results)):
        values = [result.values[metric] for result in results]
        spreads[metric] = statistics.mean(values)
        spreads[f"{metric}_spread"] = {
            "mean": statistics.mean(values),
            "std": statistics.stdev(values),
            "min": min(values),
            "max": max(values),
        }
    speeds = [result.images_per_second for result in results if result.images_per_second]
    return {
        **common,
        **spreads,
        "seed": results[0].seed,
        "seeds": [result.seed for result in results],
        "run_folder": None,
        "checkpoint": None,
        "images_per_second": statistics.median(speeds) if speeds else None,
        "seconds": sum(result.seconds for result in results),
        "runs": runs,
    }


def write_predictions(file: BinaryIO, splits: Mapping[str, Predictions]) -> None:
    """Write the logits (float16), predicted classes, labels and indices of each split to an open .npz file.

    The classes are predicted from the float32 logits, because rounding to float16 creates ties.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for split, (logits, labels, indices) in splits.items():
        arrays[f"{split}_logits"] = logits.clamp(*FLOAT16_RANGE).numpy().astype(np.float16)
        arrays[f"{split}_predicted"] = logits.argmax(-1).numpy().astype(np.int16)
        arrays[f"{split}_labels"] = labels.numpy()
        arrays[f"{split}_indices"] = indices.numpy()
    np.savez_compressed(file, allow_pickle=False, **arrays)
