"""Run a study from its file: tune, freeze, measure, and report what can be said."""

import signal
import statistics
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

from agmax import cli
from agmax.config import study as files
from agmax.config.study import Study
from agmax.errors import UsageError
from agmax.run import log, log_to
from agmax.studies import code, plan, records, runner, tuning
from agmax.studies.plan import Cell, Typed
from agmax.studies.records import Record
from agmax.studies.tuning import Choice

Result = dict[str, Any]


class Phase(NamedTuple):
    """What a study does now: its tuning, or its measuring."""

    name: str  # tuning or results
    cells: list[Cell]
    choices: dict[str, Choice] | None


def run(request: cli.Request) -> Result:
    """Run what is missing of a study; with --dry-run, say what that is."""
    log_to([])
    signal.signal(signal.SIGTERM, _end)
    study = files.read(files.find(request.named[0]))
    typed = Typed(request.dataset, request.parts, request.settings)
    phase = _phase(study, typed)
    if request.cell is not None:
        if request.cell > len(phase.cells):
            raise UsageError("no such cell", where=f"--cell={request.cell}", why=f"there are {len(phase.cells)}")
        phase = phase._replace(cells=[phase.cells[request.cell - 1]])
    known = records.read(study.results)
    missing = _missing(phase.cells, known, fresh=request.fresh)
    gpus = runner.visible_gpus()
    jobs = runner.jobs_for(request.jobs, gpus)
    _announce(study, phase, missing, known, jobs)
    if request.dry_run:
        return _answer(study, phase, missing, known)
    runs_dir = phase.cells[0].config.train.runs_dir
    folder = runner.folder_of(study.name, runs_dir)
    progress = _Progress(study, phase, len(phase.cells) - len(missing), len(missing), jobs)
    failed = runner.run_all(missing, folder, jobs=jobs, gpus=gpus, done=progress.keep)
    if failed:
        raise runner.CellError(failed[0], len(failed), folder / "cells" / f"{failed[0].cell.key}.log")
    known = records.read(study.results)
    if phase.name == "tuning" and request.cell is None:
        choices = tuning.choose(study, phase.cells, known)
        tuning.write(study, choices)
        for arm, choice in choices.items():
            log.info("%s: trial %d, validation top1 %.2f %%", arm, choice.trial, choice.validation_top1)
        log.info("the settings are chosen: %s. Commit it; --study again measures on the test images", study.chosen)
    return _answer(study, phase, [], known)


def _phase(study: Study, typed: Typed) -> Phase:
    """Return the cells to run: the tuning until its choice is written, then those that read the test images."""
    choices = tuning.read(study)
    if study.trials and choices is None:
        return Phase("tuning", plan.tuning(study, typed), None)
    return Phase("results", plan.results(study, typed, tuning.settings(choices)), choices)


def _missing(cells: Sequence[Cell], known: Mapping[str, Record], *, fresh: bool) -> list[Cell]:
    """Return the cells without a record; with `fresh` also those whose record is of other code."""
    return [
        cell for cell in cells if cell.key not in known or (fresh and known[cell.key].get("code") != code.fingerprint())
    ]


class _Progress:
    """Keep the record of each finished cell, and say one line about it."""

    def __init__(self, study: Study, phase: Phase, num_before: int, num_missing: int, jobs: int) -> None:
        self.study, self.phase, self.jobs = study, phase, jobs
        self.num_done, self.num_missing = num_before, num_missing
        self._last = time.monotonic()
        self._seconds: list[float] = []

    def keep(self, outcome: runner.Outcome) -> None:
        """Write the record of a finished cell."""
        assert outcome.run is not None
        cell = outcome.cell
        record = {
            "key": cell.key,
            "study": self.study.name,
            "phase": self.phase.name,
            "variant": cell.variant,
            "trial": cell.trial,
            "code": code.fingerprint(),
            **records.of_run(outcome.run),
        }
        record["seed"] = cell.seed  # of the replicate; an offset is part of the settings
        records.append(self.study.results, record)
        self.num_done += 1
        now = time.monotonic()
        self._seconds.append(now - self._last)
        self._last = now
        left = self.num_missing - len(self._seconds)
        split = record["split"]
        log.info(
            "cell %d/%d  %s: %s error %.2f %%, %.0f s%s",
            self.num_done,
            len(self.phase.cells),
            cell.title,
            split,
            record["metrics"][split]["error"],
            record["seconds"],
            f"; about {_duration(left * statistics.median(self._seconds))} left" if left else "",
        )


def _announce(study: Study, phase: Phase, missing: Sequence[Cell], known: Mapping[str, Record], jobs: int) -> None:
    done = len(phase.cells) - len(missing)
    log.info("%s, %s: %d cells, %d finished, %d to run", study.name, phase.name, len(phase.cells), done, len(missing))
    of_other_code = sum(known[cell.key].get("code") != code.fingerprint() for cell in phase.cells if cell.key in known)
    if of_other_code:
        log.info("note: %d finished cells were made by other code; --fresh repeats them", of_other_code)
    seconds = estimated_seconds(missing, list(known.values()))
    if missing and seconds is not None:
        log.info("about %s, %d at a time, by the cells already finished", _duration(seconds / jobs), jobs)


def estimated_seconds(cells: Sequence[Cell], known: Sequence[Record]) -> float | None:
    """Return how long cells take one after another, by the seconds an image pass took before; None if unknown."""
    speeds = [record["seconds"] / record["image_passes"] for record in known]
    passes = [image_passes(cell) for cell in cells]
    if not speeds or None in passes:
        return None
    return float(statistics.median(speeds)) * sum(number for number in passes if number is not None)


def image_passes(cell: Cell) -> int | None:
    """Return how many images, counting views, a cell's training goes through; None where the data tell."""
    config = cell.config
    limit = config.dataset.train_limit
    return None if limit is None else config.train.epochs * limit * config.objective.num_views


def _answer(study: Study, phase: Phase, missing: Sequence[Cell], known: Mapping[str, Record]) -> Result:
    return {
        "mode": "study",
        "study": study.name,
        "phase": phase.name,
        "num_cells": len(phase.cells),
        "num_missing": len(missing),
        "missing": [
            {"key": cell.key, "variant": cell.variant, "seed": cell.seed, "trial": cell.trial} for cell in missing
        ],
        "estimated_seconds": estimated_seconds(missing, list(known.values())),
    }


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _end(number: int, frame: FrameType | None) -> None:
    """End as a program that was told to: what it started is ended too."""
    raise SystemExit(128 + number)
