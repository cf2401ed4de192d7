"""Run a study from its file: tune, freeze, measure, and report what can be said."""

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from agmax.core.errors import UsageError
from agmax.core.logs import log
from agmax.experiments.source_hash import fingerprint
from agmax.studies import analysis, estimate, intervals, plan, records, runner, slurm, tuning
from agmax.studies import spec as files
from agmax.studies.analysis import Analysis, Arm, Pair
from agmax.studies.plan import Cell, Typed
from agmax.studies.records import Record
from agmax.studies.spec import Study
from agmax.studies.tuning import Choice, Tuning

Result = dict[str, Any]


class Phase(NamedTuple):
    """What a study does now: its tuning, or its measuring."""

    name: str  # tuning or results
    cells: list[Cell]
    tuned: Tuning
    choices: dict[str, Choice] | None


class Options(NamedTuple):
    """How a study is run."""

    dry_run: bool = False  # say what would be trained, and for how long
    fresh: bool = False  # repeat the cells that other code has made
    jobs: int | None = None  # cells at a time
    cell: int | None = None  # this one alone, counted from 1
    print_slurm: bool = False  # write an array job, whose tasks repeat `words`
    words: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()  # files that every cell imports first


class Outcome(NamedTuple):
    """What a run of a study came to."""

    result: Result
    analysis: Analysis | None  # where all cells are finished
    folder: Path  # for what is made from it


def run(study_file: Path, typed: Typed = Typed(), options: Options = Options()) -> Outcome:  # noqa: B008
    """Run what is missing of a study; what was typed beside it holds for every cell.

    Raises:
        UsageError: the file is no study, a setting is the study's own to set, there is no such cell, or nothing is left
            to submit.
        CellError: the training of some cells failed; the others are finished.
    """
    study = files.read(study_file)
    for setting in typed.settings:
        if setting.key in files.OF_A_CELL:
            remedy = files.OF_A_CELL[setting.key]
            raise UsageError(f"{setting.key} is the study's to set", where=setting.origin, remedy=remedy)
    phase = phase_of(study, typed)
    known = records.read(study.results)
    missing = [cell for cell in phase.cells if _is_missing(cell, known, fresh=options.fresh)]
    wanted = missing
    if options.cell is not None:
        if options.cell > len(phase.cells):
            raise UsageError("no such cell", where=f"--cell={options.cell}", why=f"there are {len(phase.cells)}")
        wanted = [cell for cell in missing if cell is phase.cells[options.cell - 1]]
    folder = runner.folder_of(study.name, phase.cells[0].config.train.runs_dir)
    if options.print_slurm:
        if not wanted:
            why = f"all {len(phase.cells)} cells are finished"
            raise UsageError(
                "nothing to submit", where=study.name, why=why, remedy="--study without it writes the report"
            )
        numbers = [number for number, cell in enumerate(phase.cells, start=1) if cell in wanted]
        script = slurm.script(study.name, options.words, numbers)
        return Outcome({**_answer(study, phase, wanted), "script": script}, None, folder)
    is_on_cpu = all(cell.config.train.device == "cpu" for cell in phase.cells)
    gpus = [] if is_on_cpu else runner.visible_gpus()
    jobs = runner.jobs_for(None if options.cell else options.jobs, gpus)
    num_done = len(phase.cells) - len(missing)
    alike = {cell.key: known[cell.key] for cell in (*phase.tuned.cells, *phase.cells) if cell.key in known}
    seconds = _announce(study, phase, wanted, alike, jobs, num_done=num_done, is_timed=options.dry_run)
    if options.dry_run:
        return Outcome({**_answer(study, phase, wanted), "estimated_seconds": seconds}, None, folder)
    if wanted:
        records.probe(study.results)
        _train(study, phase, wanted, folder, num_done=num_done, jobs=jobs, gpus=gpus, options=options)
        known = records.read(study.results)
    answer = _answer(study, phase, [])
    if options.cell is not None:
        return Outcome(answer, None, folder)
    if phase.name == "tuning":
        _freeze(phase.tuned, known)
        return Outcome(answer, None, folder)
    said = analysed(study, phase, known, typed)
    return Outcome({**answer, **analysis.as_mapping(said)}, said, folder)


def phase_of(study: Study, typed: Typed) -> Phase:
    """Return the cells to run: the tuning until its choice is written, then those that read the test images."""
    tuned = tuning.tuning(study, typed)
    choices = tuning.read(tuned)
    if study.trials and choices is None:
        return Phase("tuning", tuned.cells, tuned, None)
    return Phase("results", plan.results(study, typed, tuning.settings(choices)), tuned, choices)


def analysed(study: Study, phase: Phase, known: Mapping[str, Record], typed: Typed) -> Analysis:
    """Return what the finished cells of a study say."""
    published = {cell.key for cell in plan.results(study, Typed(), tuning.settings(phase.choices))}
    arms = []
    for variant in study.variants.values():
        cells = [cell for cell in phase.cells if cell.variant == variant.name]
        found = {cell.seed: known[cell.key] for cell in cells if cell.key in known}
        paper = variant.paper if all(cell.key in published for cell in cells) else {}
        num_trials = len(study.trials.get(variant.like or variant.name, ()))
        arms.append(Arm(variant.name, variant.about, cells[0].config, found, len(cells), paper, num_trials))
    contrasts = []
    for contrast in study.contrasts:
        second = tuning.best_of(contrast.against, phase.choices)
        among = ", ".join(contrast.against)
        about = f"the best on validation of {among}" if len(contrast.against) > 1 else ""
        contrasts.append(Pair(contrast.of, second, about))
    notes = [f"arms have unequal numbers of trials: {study.unequal_trials}"] if study.unequal_trials else []
    notes += too_few_replicates(study)
    of_other_code = _num_of_other_code(phase.cells, known)
    if of_other_code:
        notes.append(f"{of_other_code} cells were made by other code than the present; --fresh repeats them")
    return analysis.analyse(
        study.name,
        arms,
        metrics=study.metrics,
        contrasts=contrasts,
        checks=[Pair(check.of, check.against, "", check.expect) for check in study.checks],
        about=study.about,
        margin=study.margin,
        budget=study.budget,
        notes=notes,
    )


def too_few_replicates(study: Study) -> list[str]:
    """Return a note where no contrast can come out significant, whatever is measured."""
    if not study.contrasts:
        return []
    num_seeds = {name: len(variant.seeds) for name, variant in study.variants.items()}
    counts = [min(num_seeds[item.of], max(num_seeds[name] for name in item.against)) for item in study.contrasts]
    num_tests = sum(count >= intervals.MIN_REPLICATES_FOR_P for count in counts) or len(counts)
    needed, most = intervals.replicates_needed(num_tests), max(counts)
    if most >= needed:
        return []
    contrasts = "one contrast" if num_tests == 1 else f"{num_tests} contrasts"
    return [f"with {contrasts} a p-value can fall under 0.05 from {needed} replicates on; these are {most}"]


def _is_missing(cell: Cell, known: Mapping[str, Record], *, fresh: bool) -> bool:
    """Tell whether a cell has no record; with `fresh`, one of other code does not count."""
    return cell.key not in known or (fresh and known[cell.key].get("code") != fingerprint())


def _num_of_other_code(cells: Sequence[Cell], known: Mapping[str, Record]) -> int:
    return sum(known[cell.key].get("code") != fingerprint() for cell in cells if cell.key in known)


def _announce(
    study: Study,
    phase: Phase,
    missing: Sequence[Cell],
    known: Mapping[str, Record],
    jobs: int,
    *,
    num_done: int,
    is_timed: bool,
) -> float | None:
    """Show the plan, and return the seconds that the missing cells will take, where that can be told.

    Without finished cells that takes steps `is_timed`, which a study that trains leaves out: the GPU is its cells' own.
    """
    counts = len(phase.cells), num_done, len(missing)
    log.info("%s, %s: %d cells, %d finished, %d to run", study.name, phase.name, *counts)
    of_other_code = _num_of_other_code([cell for cell in phase.cells if cell not in missing], known)
    if of_other_code:
        log.info("note: %d finished cells were made by other code; --fresh repeats them", of_other_code)
    for note in too_few_replicates(study):
        log.info("note: %s", note)
    if not missing:
        return 0.0
    sizes: dict[str, int | None] = {}
    for name in dict.fromkeys(cell.variant for cell in phase.cells):
        cells = [cell for cell in phase.cells if cell.variant == name]
        passes = estimate.image_passes(cells[0].config, sizes)
        to_run = sum(cell.variant == name for cell in missing)
        text = "unknown, the data are not there" if passes is None else f"{passes:,}"
        log.info("  %-28s %3d cells, %3d to run, image passes of each: %s", name, len(cells), to_run, text)
    seconds = estimate.seconds(missing, known.values()) if known or is_timed else None
    if seconds is not None:
        by = "by the cells already finished" if known else "by steps timed now, without evaluations"
        log.info("about %s, %d at a time, %s", estimate.duration(seconds / jobs), jobs, by)
    return None if seconds is None else seconds / jobs


def _train(
    study: Study,
    phase: Phase,
    missing: Sequence[Cell],
    folder: Path,
    *,
    num_done: int,
    jobs: int,
    gpus: Sequence[str],
    options: Options,
) -> None:
    """Train the missing cells and keep their records.

    Raises:
        CellError: some failed; the others are finished.
    """
    progress = _Progress(study, phase, num_done, len(missing))
    before = signal.getsignal(signal.SIGTERM)
    if before != signal.SIG_IGN:  # what is ignored at the start stays so
        signal.signal(signal.SIGTERM, _end)
    try:
        failed = runner.run_all(
            missing,
            folder,
            jobs=jobs,
            gpus=gpus,
            fresh=options.fresh,
            imports=options.imports,
            done=progress.keep,
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    if failed:
        raise runner.CellError(failed[0], len(failed), folder / "cells" / f"{failed[0].cell.key}.log")


class _Progress:
    """Keep the record of each finished cell, and say one line about it."""

    def __init__(self, study: Study, phase: Phase, num_before: int, num_missing: int) -> None:
        self.study, self.phase = study, phase
        self.num_done, self.num_missing, self.num_made = num_before, num_missing, 0
        self._started = time.monotonic()

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
            **records.of_run(outcome.run),
        }
        record["seed"] = cell.seed  # of the replicate; an offset is part of the settings
        records.append(self.study.results, record)
        self.num_done += 1
        self.num_made += 1
        seconds = (time.monotonic() - self._started) / self.num_made
        left = self.num_missing - self.num_made
        split = record["split"]
        log.info(
            "cell %d/%d  %s: %s error %.2f %%, %.0f s%s",
            self.num_done,
            len(self.phase.cells),
            cell.title,
            split,
            record["metrics"][split]["error"],
            record["seconds"],
            f"; about {estimate.duration(left * seconds)} left" if left else "",
        )


def _freeze(tuned: Tuning, known: Mapping[str, Record]) -> None:
    """Choose by the finished tuning, and write the choice."""
    choices = tuning.choose(tuned, known)
    tuning.write(tuned, choices)
    for arm, choice in choices.items():
        log.info("%s: trial %d, validation top1 %.2f %%", arm, choice.trial, choice.validation_top1)
    log.info("the settings are chosen: %s. Commit it; --study again measures on the test images", tuned.path)


def _answer(study: Study, phase: Phase, missing: Sequence[Cell]) -> Result:
    return {
        "mode": "study",
        "study": study.name,
        "phase": phase.name,
        "num_cells": len(phase.cells),
        "missing": [
            {"key": cell.key, "variant": cell.variant, "seed": cell.seed, "trial": cell.trial} for cell in missing
        ],
    }


def _end(number: int, frame: FrameType | None) -> None:
    """End as a program that was told to: what it started is ended too."""
    raise SystemExit(128 + number)
