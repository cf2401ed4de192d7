"""What a training or an evaluation leaves: its result, its predictions, the summary of several."""

import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from agmax.core.errors import OutputError
from agmax.evaluation.metrics import METRICS, measured, metrics, per_class
from agmax.evaluation.predict import Predictions

Result = dict[str, Any]

FLOAT16_RANGE = (-65504.0, 65504.0)


def scores(predictions: Predictions, class_names: Sequence[str]) -> Result:
    """Return the metrics of a split: num_images, those of METRICS that are measured, per_class (percent)."""
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
    words = {"top5": f"top{min(5, len(result['per_class']))}"}
    listed = []
    for name in (name for name in measured() if name in result):  # a result of another release may lack some
        unit = " %" if METRICS[name].unit == "%" else ""
        listed.append(f"{words.get(name, name)} {result[name]:.{METRICS[name].decimals}f}{unit}")
    return f"{result['split']} of {result['dataset']}, {result['num_images']} images: {', '.join(listed)}"


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
    for metric in (name for name in measured() if all(name in result for result in results)):
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


def write_predictions(path: Path, splits: Mapping[str, Predictions]) -> None:
    """Write the logits (float16), predicted classes, labels and indices of each split to a .npz file.

    The classes are those of the float32 logits: rounding makes ties.

    Raises:
        OutputError: the file cannot be written.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for split, (logits, labels, indices) in splits.items():
        arrays[f"{split}_logits"] = logits.clamp(*FLOAT16_RANGE).numpy().astype(np.float16)
        arrays[f"{split}_predicted"] = logits.argmax(-1).numpy().astype(np.int16)
        arrays[f"{split}_labels"] = labels.numpy()
        arrays[f"{split}_indices"] = indices.numpy()
    with replaced(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once it is whole, and is removed where it does not get so far.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError("cannot write", where=path, why=error.strerror or str(error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def probe(path: Path) -> None:
    """Find out before the work begins whether its results can be written.

    Raises:
        OutputError: they cannot.
    """
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long
        raise OutputError("cannot write", where=path, why=error.strerror or str(error)) from error
    if is_folder or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        why = "it is a folder" if is_folder else "its folder is not there or cannot be written"
        raise OutputError("cannot write", where=path, why=why)
