"""The run folder: everything a training leaves behind, and how it is found again."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agmax.core import storage
from agmax.core.errors import BusyError, CheckpointError, OutputError


class RunFolder:
    """A run folder; created by one training and written by no other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics_path = path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.path / "checkpoints"

    @property
    def is_finished(self) -> bool:
        """Tell whether its training has come to its end."""
        return (self.path / "result.json").is_file()

    @classmethod
    def create(cls, runs_dir: str, name: str, stem: str) -> "RunFolder":
        """Make `<runs_dir>/<name>/<stem>`, or with the next free number behind it; never one that exists.

        Raises:
            OutputError: the folder cannot be written.
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
                return cls(path)
        raise OutputError("no free run folder", where=parent)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other programs from training in this folder, and remove what a killed one has left half written.

        The lock of a program that is killed goes with it, at the latest when its loader's workers have left too.

        Raises:
            BusyError: another program trains here now.
            OutputError: the folder cannot be written.
        """
        path = self.path / ".lock"
        with storage.lock(path) as descriptor:
            if descriptor is None:
                remedy = "Wait for it, or start a new run without --resume"
                raise BusyError(
                    "run folder in use", where=self.path, why=f"by {storage.lock_owner(path)}", remedy=remedy
                )
            storage.sweep(self.path)
            yield

    def write_text(self, name: str, text: str) -> None:
        """Write a whole file, all or nothing."""
        storage.write_file(self.path / name, text)

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json.dumps(value, indent=1, ensure_ascii=True) + "\n")

    def read_json(self, name: str) -> Any:
        """Return what a file holds, or None where it is not there."""
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl; a last line cut short by a kill is left out."""
        if not self.metrics_path.is_file():
            return []
        rows = []
        for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def drop_rows_after(self, step: int) -> None:
        """Drop the rows of later steps, which will be made again."""
        rows = [row for row in self.rows() if row["step"] <= step]
        self.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def append(self, row: dict[str, Any]) -> None:
        """Add one row to metrics.jsonl."""
        storage.append(self.metrics_path, json.dumps(row) + "\n")

    def would_be_best(self, row: dict[str, Any]) -> bool:
        """Tell whether an evaluated row is better than all those written: the first of equals stays the best."""
        key = best_key(row)
        return all(_metric_value(row, key) > _metric_value(other, key) for other in self.rows() if key in other)

    def best(self) -> dict[str, Any]:
        """Return the best row, and how it was chosen."""
        rows = self.rows()
        key = best_key(rows[-1])
        row = max((row for row in rows if key in row), key=lambda row: _metric_value(row, key))
        chosen_on = "validation" if key.startswith("validation") else "best_on_test (as the papers do)"
        return {"chosen_on": chosen_on, "epoch": row["epoch"], key: row[key], "test_top1": row.get("test_top1")}


def run_folder_of(checkpoint: Path) -> str | None:
    """Return the run folder that a checkpoint lies in."""
    folder = checkpoint.parent.parent
    return str(folder) if (folder / "config.yaml").is_file() else None


def best_key(row: dict[str, Any]) -> str:
    """Return the metric by which the best epoch is chosen: on validation images where there are any."""
    return "validation_top1" if "validation_top1" in row else "test_top1"


def _metric_value(row: dict[str, Any], key: str) -> float:
    value = float(row[key])
    return -1.0 if math.isnan(value) else value


def check_runs_dir(runs_dir: str) -> None:
    """Find out before the work begins whether its results can be kept.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    folder, remedy = Path(runs_dir).expanduser(), "Set train.runs_dir to a folder you can write"
    storage.check_writable(folder, is_folder=True, what="cannot write the output folder", remedy=remedy)


def find_runs(runs_dir: str, name: str, stem: str) -> Iterator[RunFolder]:
    """Yield the run folders `<runs_dir>/<name>/<stem>[-n]`, the newest number first."""
    parent = Path(runs_dir).expanduser() / name
    numbered: list[tuple[int, Path]] = []
    for path in parent.glob(f"{stem}*"):
        match = re.fullmatch(re.escape(stem) + r"(?:-(\d+))?", path.name)
        if match and path.is_dir():
            numbered.append((int(match[1] or 1), path))
    for _, path in sorted(numbered, reverse=True):
        yield RunFolder(path)


def find(text: str, runs_dir: str) -> Path:
    """Find what --resume names: the path as typed, then in checkpoints/, then in the folder of runs.

    Raises:
        CheckpointError: it is in none of them; what is there is listed.
    """
    typed = Path(text).expanduser()
    tried = [typed, Path("checkpoints") / text, Path(runs_dir).expanduser() / text]
    for path in tried:
        if path.exists():
            return path
    there = [str(path) for folder in (typed.parent, Path("checkpoints")) for path in sorted(folder.glob("*.pth"))]
    why = f"looked for {', '.join(str(path) for path in tried)}"
    remedy = (
        f"There are {', '.join(there[:8])}" if there else "Give a file, a run folder, or no value for the newest run"
    )
    raise CheckpointError("checkpoint not found", where=text, why=why, remedy=remedy)
