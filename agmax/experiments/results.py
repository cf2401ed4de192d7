"""What a training or an evaluation leaves: its result, its predictions, the summary of several."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from agmax.evaluation.metrics import metrics, per_class
from agmax.evaluation.predict import Predictions

Result = dict[str, Any]

FLOAT16_RANGE = (-65504.0, 65504.0)

SUMMARISED = ("top1", "top5", "nll", "ece")


def scores(predictions: Predictions, class_names: Sequence[str]) -> Result:
    """Return the metrics of a split: num_images, top1, top5 (percent), nll (nats), ece (share), per_class (percent)."""
    logits, labels, _ = predictions
    return {
        "num_images": len(labels),
        **metrics(logits, labels),
        "per_class": per_class(logits, labels, class_names),
    }


def or_none(value: Any) -> Any:
    """Return a value, or None in the place of each number that is not finite, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: or_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def line(result: Result) -> str:
    """Say a result in one line; top5 is named by what it is where there are fewer classes."""
    k = min(5, len(result["per_class"]))
    return (
        f"{result['split']} of {result['dataset']}, {result['num_images']} images: top1 {result['top1']:.2f} %, "
        f"top{k} {result['top5']:.2f} %, nll {result['nll']:.4f}, ece {result['ece']:.4f}"
    )


def training_times(rows: Sequence[Mapping[str, Any]]) -> Result:
    """Return the seconds spent training and the images a second (median of the epochs)."""
    timings = [row["timing"] for row in rows]
    speeds = [timing["images_per_second"] for timing in timings if timing["images_per_second"]]
    return {
        "images_per_second": statistics.median(speeds) if speeds else None,
        "seconds": sum(timing["train_seconds"] for timing in timings),
    }


def summary(results: Sequence[Result]) -> Result:
    """Summarise runs that differ in their seed alone: mean, sample standard deviation, min and max of each metric."""
    shared = ("mode", "config", "dataset", "split", "num_images", "epochs")
    made: Result = {key: results[0][key] for key in shared}
    for metric in SUMMARISED:
        values = [result[metric] for result in results]
        made[metric] = statistics.mean(values)
        made[f"{metric}_spread"] = {
            "mean": statistics.mean(values),
            "std": statistics.stdev(values),
            "min": min(values),
            "max": max(values),
        }
    speeds = [result["images_per_second"] for result in results if result["images_per_second"]]
    return {
        **made,
        "seed": results[0]["seed"],
        "seeds": [result["seed"] for result in results],
        "run_folder": None,
        "checkpoint": None,
        "images_per_second": statistics.median(speeds) if speeds else None,
        "seconds": sum(result["seconds"] for result in results),
        "runs": list(results),
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
