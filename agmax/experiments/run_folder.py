"""The run folder of a training: create it, lock it, read and write its files, and find it again."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

from agmax.core import locks, storage
from agmax.core.errors import BusyError, CheckpointError, DiskFullError, OutputError
from agmax.core.logs import log
from agmax.experiments.results import Result


class RunFolder:
    """The folder of one training; no other training writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics_path = path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def is_finished(self) -> bool:
        """Return whether the training is finished: a damaged result.json does not count."""
        return self.result() is not None

    @property
    def has_damaged_result(self) -> bool:
        """Return whether there is a result.json that cannot be read."""
        return not self.is_finished and (self.path / "result.json").exists()

    @property
    def has_epochs(self) -> bool:
        """Return whether an epoch has ended here, so that there must have been a checkpoint."""
        is_measured = self.metrics_path.is_file() and self.metrics_path.stat().st_size > 0
        return is_measured or (self.path / "result.json").exists()

    @property
    def is_empty(self) -> bool:
        """Return whether the folder has no file of a training yet."""
        return not any(path.is_file() and not path.name.startswith(".") for path in self.path.rglob("*"))

    def fallback(self, fallback_dir: str | None) -> Path | None:
        """Return the folder in `fallback_dir` for the checkpoints that this folder cannot take."""
        if fallback_dir is None:
            return None
        place = hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:8]
        return Path(fallback_dir).expanduser() / f"{self.path.parent.name}-{self.path.name}-{place}"

    @classmethod
    def create(cls, runs_dir: str, name: str, stem: str) -> "RunFolder":
        """Create `<runs_dir>/<name>/<stem>` or, if it exists, `<stem>-2` or the next free number.

        Raises:
            OutputError: the folder cannot be created.
        """
        parent = Path(runs_dir).expanduser() / name
        with storage.explain(parent, what="cannot write the run folder"):
            parent.mkdir(parents=True, exist_ok=True)
            for number in range(1, 1_000_000):
                path = parent / (stem if number == 1 else f"{stem}-{number}")
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
                (path / "checkpoints").mkdir()
                for folder in (path, parent, parent.parent):
                    storage.sync_folder(folder)
                return cls(path)
        raise OutputError("no free run folder", where=parent)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder against other processes, and remove the partial files of a killed training.

        The operating system releases the lock of a killed process at once.

        Raises:
            BusyError: another process trains in this folder.
            OutputError: the folder cannot be written.
        """
        path = self.path / ".lock"
        with locks.lock(path) as descriptor:
            if descriptor is None:
                why, remedy = f"by {locks.lock_owner(path)}", "Wait for it, or start a new run without --resume"
                raise BusyError("run folder in use", where=self.path, why=why, remedy=remedy)
            storage.sweep(self.path)
            yield

    def read_text(self, name: str) -> str | None:
        """Return the text of a file, None if it is missing or not UTF-8."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def write_text(self, name: str, text: str) -> None:
        """Write a file atomically."""
        storage.write_file(self.path / name, text)

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as a JSON file atomically."""
        self.write_text(name, _as_json(value))

    def record_state(self, state: dict[str, Any]) -> None:
        """Write state.json; on a full disk into its own blocks.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            self.write_json("state.json", state)
        except DiskFullError:
            with storage.explain(self.path / "state.json"):
                storage.overwrite(self.path / "state.json", _as_json(state))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return the mapping in a JSON file, None if the file is missing or damaged."""
        try:
            value = json.loads(self.read_text(name) or "")
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def result(self) -> Result | None:
        """Return the result of the finished training, None if result.json is missing or damaged."""
        try:
            return Result.from_dict(self.read_json("result.json") or {})
        except ValueError:
            return None

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl, one a step, without damaged lines such as one cut short by a kill."""
        rows = {row["step"]: row for row in map(_parse_row, self._lines()) if row is not None}
        return [rows[step] for step in sorted(rows)]

    def _lines(self) -> list[str]:
        if not self.metrics_path.is_file():
            return []
        return self.metrics_path.read_text(encoding="utf-8", errors="replace").splitlines()

    def drop_rows_after(self, step: int) -> None:
        """Drop damaged lines, with a warning, and the rows of later steps, which will be trained again."""
        num_damaged = sum(_parse_row(line) is None for line in self._lines())
        if num_damaged:
            log.warning("warning: %s: %d damaged lines are dropped", self.metrics_path, num_damaged)
        rows = [row for row in self.rows() if row["step"] <= step]
        self.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def append(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl."""
        storage.append(self.metrics_path, json.dumps(row) + "\n")

    def would_be_best(self, row: dict[str, Any]) -> bool:
        """Return whether a row is better than all rows in metrics.jsonl; of equal rows the first is the best."""
        key = _best_key([row])
        return all(_metric_value(row, key) > _metric_value(other, key) for other in self.rows() if key in other)

    def best(self) -> dict[str, Any] | None:
        """Return epoch and accuracy of the best row, and the split that it was chosen on; None without evaluations."""
        rows = self.rows()
        key = _best_key(rows)
        row = max((row for row in rows if key in row), key=lambda row: _metric_value(row, key), default=None)
        if row is None:
            return None
        chosen_on = "validation" if key.startswith("validation") else "best_on_test (as the papers do)"
        return {"chosen_on": chosen_on, "epoch": row["epoch"], key: row[key], "test_top1": row.get("test_top1")}


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=True) + "\n"


def _parse_row(line: str) -> dict[str, Any] | None:
    """Return the row of a line of metrics.jsonl, None for a damaged line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kinds = {"epoch": int, "step": int, "timing": dict}
    if not isinstance(row, dict) or not all(isinstance(row.get(key), kind) for key, kind in kinds.items()):
        return None
    timing = row["timing"]
    numbers = [value for key, value in row.items() if key != "timing"] + [timing.get("train_seconds")]
    is_whole = all(isinstance(value, int | float) for value in numbers)
    return row if is_whole and isinstance(timing.get("images_per_second", ""), int | float | NoneType) else None


def run_folder_of(checkpoint: Path) -> str | None:
    """Return the run folder of a checkpoint, None if the file is not in one."""
    folder = checkpoint.parent.parent
    return str(folder) if (folder / "config.yaml").is_file() else None


def _best_key(rows: Sequence[dict[str, Any]]) -> str:
    """Return the metric that decides the best epoch: on validation images, or on test images if there are none."""
    return "validation_top1" if any("validation_top1" in row for row in rows) else "test_top1"


def _metric_value(row: dict[str, Any], key: str) -> float:
    value = float(row[key])
    return -1.0 if math.isnan(value) else value


def find_runs(runs_dir: str, name: str, stem: str) -> Iterator[RunFolder]:
    """Yield the run folders `<runs_dir>/<name>/<stem>[-n]`, the highest number first."""
    parent = Path(runs_dir).expanduser() / name
    folders: list[tuple[int, Path]] = []
    for path in parent.glob(f"{stem}*"):
        match = re.fullmatch(re.escape(stem) + r"(?:-(\d+))?", path.name)
        if match and path.is_dir():
            folders.append((int(match[1] or 1), path))
    for _, path in sorted(folders, reverse=True):
        yield RunFolder(path)


def find(text: str, runs_dir: str) -> Path:
    """Find the value of --resume: as a path, then in checkpoints/, then in `runs_dir`.

    Raises:
        CheckpointError: it is in none of them; the message lists existing checkpoints.
    """
    as_path = Path(text).expanduser()
    candidates = [as_path, Path("checkpoints") / text, Path(runs_dir).expanduser() / text]
    for path in candidates:
        if path.exists():
            return path
    existing = [str(path) for folder in (as_path.parent, Path("checkpoints")) for path in sorted(folder.glob("*.pth"))]
    why = f"looked for {', '.join(str(path) for path in candidates)}"
    remedy = "Give a file, a run folder, or no value for the newest run"
    if existing:
        remedy = f"Existing checkpoints: {', '.join(existing[:8])}"
    raise CheckpointError("checkpoint not found", where=text, why=why, remedy=remedy)
