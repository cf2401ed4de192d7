"""Small studies, what they leave behind, and what stands in for the trainings of their runs."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agmax.cli import parser
from agmax.config import resolve
from agmax.config.resolve import ConfigRequest
from agmax.core.errors import AgmaxError
from agmax.core.logs import log
from agmax.experiments.environment import program
from agmax.experiments.run_folder import RunFolder
from agmax.experiments.start import find_start
from agmax.experiments.train import train
from agmax.reports import writers
from agmax.studies import records, runner, study

SETTINGS = """
base: ResNet8
dataset: digits
settings:
  dataset: {train_limit: 40, validation: 40, split_seed: 0, image_size: 8}
  augment: {standard: {padding: 1}}
  train: {epochs: 1, batch_size: 20}
"""

TINY = f"""{SETTINGS}
seeds: 2
variants:
  plain:
  smooth: label_smoothing
contrasts:
  - {{of: smooth, against: [plain]}}
"""
"""Two variants, two seeds, two steps each."""

TUNED = f"""{SETTINGS}
variants:
  plain:
  smooth: label_smoothing
contrasts:
  - {{of: smooth, against: [plain]}}
tune:
  seeds: [1000, 1001]
  trials:
    plain: [{{optimizer.lr: 0.1}}, {{optimizer.lr: 0.2}}, {{optimizer.lr: 0.3}}]
    smooth: [{{}}, {{optimizer.lr: 0.2}}, {{optimizer.lr: 0.3}}]
"""

TIME = ("seconds", "environment")
"""What two trainings of one run may differ in."""


def numbers(path: Path = Path("results/tiny.jsonl")) -> dict[str, Any]:
    """Read the records of a study, without what depends on time and machine."""
    return {
        key: {name: value for name, value in record.items() if name not in TIME}
        for key, record in records.read_records(path).items()
    }


def lines(path: Path = Path("results/tiny.jsonl")) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def folders(runs: Path = Path("runs")) -> list[str]:
    """List the run folders."""
    return sorted(str(path.parent.relative_to(runs)) for path in runs.glob("*/*/config.yaml"))


def table() -> str:
    """Return the tables of the finished study in this folder, without its times."""
    said = study.run(Path("tiny.yaml")).analysis
    assert said is not None
    return writers.markdown(said._replace(variants=[variant._replace(minutes=0.0) for variant in said.variants]))


class InThisProcess:
    """Stands for the process that trains a run: trains it here, which saves five seconds."""

    num_started = 0

    def __init__(self, words: Sequence[str], **files: Any) -> None:
        type(self).num_started += 1
        self.words, self.output = words[len(program()) :], files["stderr"]
        self.returncode = 0

    def communicate(self) -> tuple[bytes, None]:
        handlers, log.handlers = log.handlers, []
        try:
            return json.dumps(self.train(parser.parse(self.words).config_request)).encode(), None
        except AgmaxError as error:
            self.output.write(f"error: {error}\n".encode())
            self.returncode = error.exit_code
            return b"", None
        finally:
            log.handlers = handlers

    def train(self, request: ConfigRequest) -> dict[str, Any]:
        with find_start(request) as start:
            return train(start).to_dict()

    def terminate(self) -> None: ...


def stand_in(monkeypatch: pytest.MonkeyPatch, kind: type) -> Any:
    """Let another class stand for the processes of runs, and count them anew."""
    counted: Any = type("Counted", (kind,), {"num_started": 0})
    monkeypatch.setattr(runner, "subprocess", SimpleNamespace(Popen=counted, DEVNULL=None, PIPE=None))
    return counted


class Untrained:
    """Stands for a training that must not be."""

    def __init__(self, words: Sequence[str], **files: Any) -> None:
        raise AssertionError(words)


def make_up(monkeypatch: pytest.MonkeyPatch, finished: Path) -> Any:
    """Let a run take a moment, and its result from a table: top1 by the study's variant, learning rate and seed."""
    template = finished / "runs/tiny-plain/digits-s0"
    top1: dict[tuple[str, float, int], float] = {}

    class MadeUp(InThisProcess):
        def train(self, request: ConfigRequest) -> dict[str, Any]:
            resolved = resolve.resolve(str(request.source))
            config = resolved.config
            path = RunFolder.create(config.train.runs_dir, config.name, f"digits-s{config.train.seed}").path
            time.sleep(0.02)
            for name in ("environment.json", "predictions.npz", "metrics.jsonl"):
                shutil.copy(template / name, path)
            variant = config.name.removeprefix("tiny-").partition("-")[0]
            value = top1.get((variant, config.optimizer.lr, config.train.seed), 50.0)
            (row,) = RunFolder(path).rows()
            row |= {"validation_top1": value, "test_top1": value}
            (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
            (path / "config.yaml").write_text(resolve.as_yaml(resolved))
            result = json.loads((template / "result.json").read_text())
            result |= {"seed": config.train.seed, "run_folder": str(path)}
            (path / "result.json").write_text(json.dumps(result))
            return result

    counted = stand_in(monkeypatch, MadeUp)
    counted.top1 = top1
    return counted


def until(holds: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
