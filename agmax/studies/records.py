"""Store finished runs as lines of JSON, from which all tables, intervals and figures are computed."""

import base64
import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agmax.core import locks, storage
from agmax.core.errors import CheckpointError, DataError
from agmax.evaluation.metrics import METRICS, add_complements
from agmax.experiments.run_folder import RunFolder

Record = dict[str, Any]
Bits = NDArray[np.bool_]

ENVIRONMENT_KEYS = ("torch", "device_name", "num_gpus", "threads", "precision", "commit", "clean")
CURVES = ("train_loss", "validation_top1", "test_top1")

WHAT, REMEDY = "cannot write the results", "Copy the study file to a writable folder, and give its path"
"""The texts of an error when records cannot be written."""


def record_of_run(run: RunFolder) -> Record:
    """Return the record of a finished run.

    Keys: seed, config, split, metrics (of every split: METRICS), best (the two protocols that choose an epoch),
    curves (values at epochs), epochs, steps, samples_seen, num_training_images, code, seconds, environment. With a test
    split: num_test_images, labels (checksum), right (packed bits: is each test image classified correctly?). Where it
    was measured: robustness (top1 `at` occluded fractions in percent, and `at` offsets in pixels). If
    environment.json is damaged, code and environment are None.

    Raises:
        CheckpointError: another file is damaged or incomplete.
    """
    result, environment = run.read_json("result.json"), run.read_json("environment.json") or {}
    if result is None:
        raise _incomplete(run, "result.json is damaged")
    predictions = _predictions(run)
    rows = run.rows()
    epochs = [row["epoch"] for row in rows]
    try:
        if not rows or rows[-1]["step"] != result["steps"] or epochs != list(range(epochs[0], epochs[-1] + 1)):
            raise _incomplete(run, "metrics.jsonl does not have a row of every epoch")
        return _record(result, environment, predictions, rows)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _incomplete(run, f"{type(error).__name__}: {error}") from error


def _incomplete(run: RunFolder, why: str) -> CheckpointError:
    remedy = "Restore the file, or train again: runs of early releases lack some files"
    return CheckpointError("run folder is incomplete", where=run.path, why=why, remedy=remedy)


def _predictions(run: RunFolder) -> dict[str, NDArray[Any]]:
    path = run.path / "predictions.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        remedy = f"Remove {run.path / 'result.json'} and --train --resume {run.path}: both are then written again"
        raise CheckpointError(
            "damaged predictions", where=path, why=str(error).partition("\n")[0], remedy=remedy
        ) from error


def _record(
    result: Mapping[str, Any],
    environment: Mapping[str, Any],
    predictions: Mapping[str, NDArray[Any]],
    rows: list[dict[str, Any]],
) -> Record:
    record: Record = {
        "seed": result["seed"],
        "config": result["config"],
        "split": result["split"],
        "metrics": {
            split: _metrics(rows[-1], split) for split in ("validation", "test") if f"{split}_top1" in rows[-1]
        },
        "best": _best(rows),
        "curves": _curves(rows),
        **{name: result[name] for name in ("epochs", "steps", "samples_seen", "num_training_images")},
        "code": environment.get("code"),
        "seconds": round(sum(sum(_seconds(row["timing"])) for row in rows) + result.get("robustness_seconds", 0.0), 1),
        "environment": {name: environment.get(name) for name in ENVIRONMENT_KEYS},
    }
    robustness = _robustness(result)
    if robustness:
        record["robustness"] = robustness
    if "test_labels" in predictions:
        labels = predictions["test_labels"]
        correct = predictions["test_predicted"] == labels
        record |= {"num_test_images": len(labels), "labels": checksum(labels), "right": pack_bits(correct)}
    return record


def _metrics(row: Mapping[str, Any], split: str) -> dict[str, float]:
    return add_complements({name: float(row[f"{split}_{name}"]) for name in METRICS if f"{split}_{name}" in row})


def _seconds(timing: Mapping[str, float]) -> tuple[float, float]:
    return timing["train_seconds"], timing["evaluation_seconds"]


def _best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the test metrics of the best epoch on validation and of the best on test (as the papers do)."""
    test_rows = [row for row in rows if "test_top1" in row]
    best: dict[str, Any] = {}
    for protocol, key in (("best_on_validation", "validation_top1"), ("best_on_test", "test_top1")):
        candidates = [row for row in test_rows if key in row]
        if candidates:
            row = max(candidates, key=lambda row: float(row[key]))  # ties go to the first
            best[protocol] = {"epoch": row["epoch"], **_metrics(row, "test")}
    return best


def _curves(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    curves: dict[str, dict[str, list[float]]] = {}
    for name in CURVES:
        points = [(row["epoch"], round(float(row[name]), 5)) for row in rows if name in row]
        if points:
            epochs, values = zip(*points, strict=True)
            curves[name] = {"epochs": list(epochs), "values": list(values)}
    return curves


def _robustness(result: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    tables: dict[str, tuple[list[float], list[float]]] = {}
    if "occlusion" in result:
        table = result["occlusion"]
        tables["occlusion"] = [100 * fraction for fraction in table["fraction"]], table["top1"]
    if "offsets" in result:
        table = result["offsets"]["along_axes"]
        tables["offsets"] = table["pixels"], table["top1"]
    return {
        name: {"at": [round(x, 3) for x in at], "top1": [round(y, 3) for y in top1]}
        for name, (at, top1) in tables.items()
    }


def pack_bits(correct: Bits) -> str:
    """Encode bits [M] as base64 text, eight to a byte."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpack_bits(record: Record) -> Bits:
    """Return for each test image [M] whether the run classified it correctly."""
    packed_bits = np.frombuffer(base64.b64decode(record["right"]), dtype=np.uint8)
    return np.unpackbits(packed_bits, count=record["num_test_images"]).astype(bool)


def checksum(labels: NDArray[Any]) -> str:
    """Return a hash (16 hexadecimal digits) of labels [M], equal for equal test images in equal order."""
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()[:16]


def read_records(path: Path) -> dict[str, Record]:
    """Return the records of a file by key; the last of equal keys wins, an incomplete last line is ignored.

    Raises:
        DataError: another line is damaged, or the file cannot be read.
    """
    try:
        return _parse(path.read_bytes(), path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError("cannot read the results", where=path, why=error.strerror or "") from error


def _parse(content: bytes, path: Path) -> dict[str, Record]:
    record_of: dict[str, Record] = {}
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            record_of[record["key"]] = record
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # cut short by a kill
                break
            remedy = "Restore the file, or remove the line to train its run again"
            raise DataError("damaged record", where=f"{path}:{number}", remedy=remedy) from error
    return record_of


def append_record(path: Path, record: Record) -> None:
    """Append a record to the file, unless the same run of the same code is in it; safe with several writers.

    An incomplete last line is removed; a complete one without a line end gets one.

    Raises:
        OutputError: the file cannot be written.
    """
    storage.make_folder(path.parent, what=WHAT, remedy=REMEDY)
    with (
        storage.explain(path, what=WHAT, remedy=REMEDY),
        locks.open_locked(path, wait=True, what=WHAT, remedy=REMEDY) as file,
    ):
        assert file is not None, "open_locked waits for the lock"
        file.seek(0)
        content = file.read()
        existing = _parse(content, path).get(record["key"])
        if existing is not None and existing.get("code") == record.get("code"):
            return
        last_line = content[content.rfind(b"\n") + 1 :]
        if _parse(last_line, path):
            file.write(b"\n")
        else:
            file.truncate(len(content) - len(last_line))
        file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        storage.sync(file)
