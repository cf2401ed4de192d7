"""What a training or an evaluation leaves: its result, its predictions, the summary of several."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np

from agmax.evaluation.metrics import METRICS, computed_metrics
from agmax.evaluation.predict import Predictions

FLOAT16_RANGE = (-65504.0, 65504.0)

ROBUSTNESS, PUBLISHED = ("occlusion", "offsets", "robustness_seconds"), ("published_top1", "sha256")
"""Keys of what only some evaluations have: what was asked for of robustness, what is known of a released file."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What an evaluation of one split came to."""

    mode: ClassVar[str] = "eval"

    config: str
    dataset: str
    split: str
    num_images: int
    scores: dict[str, float]  # of METRICS: top1 and top5 in percent, nll in nats, ece as a share
    per_class: dict[str, float | None]  # top1 of each class in percent
    robustness: dict[str, Any]  # of ROBUSTNESS, what was asked for
    seed: int
    epochs: int
    run_folder: str | None
    checkpoint: str | None
    images_per_second: float | None
    seconds: float
    published: dict[str, Any] = field(default_factory=dict)  # of PUBLISHED, where it is a released file

    @property
    def top1(self) -> float:
        return self.scores["top1"]

    @property
    def top5(self) -> float:
        return self.scores["top5"]

    @property
    def nll(self) -> float:
        return self.scores["nll"]

    @property
    def ece(self) -> float:
        return self.scores["ece"]

    def to_dict(self) -> dict[str, Any]:
        """Return the object of --json: plain types, each score under its own key, null for what is not finite."""
        flat: dict[str, Any] = {"mode": self.mode}
        for each in fields(self):
            value = getattr(self, each.name)
            flat |= value if each.name in ("scores", "robustness", "published") else {each.name: value}
        return {key: or_none(value) for key, value in flat.items()}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """Return what `to_dict` has made an object of; what is under no key of its own is a score.

        Raises:
            ValueError: something is missing.
        """
        own = {each.name for each in fields(cls)}
        values: dict[str, Any] = {"scores": {}, "robustness": {}, "published": {}}
        for key, value in mapping.items():
            if key in own:
                values[key] = value
            elif key != "mode":
                kind = "robustness" if key in ROBUSTNESS else "published" if key in PUBLISHED else "scores"
                values[kind][key] = value
        missing = [each.name for each in fields(cls) if each.name not in values and each.default_factory is MISSING]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Result(Metrics):
    """What a training came to: the metrics of its final epoch, and how it got there."""

    mode: ClassVar[str] = "train"

    run_folder: str
    checkpoint: str  # holds exactly the weights that were measured
    steps: int
    num_training_images: int
    samples_seen: int
    best: dict[str, Any]  # the epoch that a selection would have chosen, and on what


def or_none(value: Any) -> Any:
    """Return a value, or None in the place of each number that is not finite, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: or_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_lines(found: Metrics) -> list[str]:
    """Say what was measured: the scores in one line, what is robust in others.

    Top5 is named by what it is where there are fewer classes.
    """
    words = {"top5": f"top{min(5, len(found.per_class))}"}
    listed = []
    for name, value in found.scores.items():
        metric = METRICS.get(name)  # a metric that was joined when this was written need not be known now
        unit = " %" if metric and metric.unit == "%" else ""
        listed.append(f"{words.get(name, name)} {value:.{metric.decimals if metric else 4}f}{unit}")
    said = [f"{found.split} of {found.dataset}, {found.num_images} images: {', '.join(listed)}"]
    if "occlusion" in found.robustness:
        table = found.robustness["occlusion"]
        pairs = [f"{100 * at:.0f} % top1 {top1:.2f}" for at, top1 in zip(table["fraction"], table["top1"], strict=True)]
        said.append(f"occluded: {', '.join(pairs)}")
    if "offsets" in found.robustness:
        table = found.robustness["offsets"]["along_axes"]
        pairs = [f"{at} px top1 {top1:.2f}" for at, top1 in zip(table["pixels"], table["top1"], strict=True)]
        said.append(f"aside: {', '.join(pairs)}")
    return said


def training_times(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the seconds spent training and the images a second (median of the epochs)."""
    timings = [row["timing"] for row in rows]
    speeds = [timing["images_per_second"] for timing in timings if timing["images_per_second"]]
    return {
        "images_per_second": statistics.median(speeds) if speeds else None,
        "seconds": sum(timing["train_seconds"] for timing in timings),
    }


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Summarise runs that differ in their seed alone: mean, sample standard deviation, min and max of each metric."""
    objects = [result.to_dict() for result in results]
    made: dict[str, Any] = {
        key: objects[0][key] for key in ("mode", "config", "dataset", "split", "num_images", "epochs")
    }
    for metric in (name for name in computed_metrics() if all(name in result.scores for result in results)):
        values = [result.scores[metric] for result in results]
        made[metric] = statistics.mean(values)
        made[f"{metric}_spread"] = {
            "mean": statistics.mean(values),
            "std": statistics.stdev(values),
            "min": min(values),
            "max": max(values),
        }
    speeds = [result.images_per_second for result in results if result.images_per_second]
    return {
        **made,
        "seed": results[0].seed,
        "seeds": [result.seed for result in results],
        "run_folder": None,
        "checkpoint": None,
        "images_per_second": statistics.median(speeds) if speeds else None,
        "seconds": sum(result.seconds for result in results),
        "runs": objects,
    }


def write_predictions(file: BinaryIO, splits: Mapping[str, Predictions]) -> None:
    """Write the logits (float16), predicted classes, labels and indices of each split to an open .npz file.

    The classes are those of the float32 logits: rounding makes ties.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for split, (logits, labels, indices) in splits.items():
        arrays[f"{split}_logits"] = logits.clamp(*FLOAT16_RANGE).numpy().astype(np.float16)
        arrays[f"{split}_predicted"] = logits.argmax(-1).numpy().astype(np.int16)
        arrays[f"{split}_labels"] = labels.numpy()
        arrays[f"{split}_indices"] = indices.numpy()
    np.savez_compressed(file, allow_pickle=False, **arrays)
