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
from agmax.studies.analysis import Analysis, Pair, VariantRuns
from agmax.studies.plan import PlannedRun, TypedSettings
from agmax.studies.records import Record
from agmax.studies.spec import Study
from agmax.studies.tuning import Choice, Tuning

Result = dict[str, Any]


class Phase(NamedTuple):
    """What a study does now: its tuning, or its measuring."""

    name: str  # tuning or results
    planned_runs: list[PlannedRun]
    tuned: Tuning
    choices: dict[str, Choice] | None


class Options(NamedTuple):
    """How a study is run."""

    dry_run: bool = False  # say what would be trained, and for how long
    fresh: bool = False  # repeat the runs that other code has made
    jobs: int | None = None  # runs at a time
    run_number: int | None = None  # this one alone, counted from 1
    print_slurm: bool = False  # write an array job, whose tasks repeat `words`
    words: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()  # files that every run imports first


class StudyOutcome(NamedTuple):
    """What a run of a study came to."""

    result: Result
    analysis: Analysis | None  # where all runs are finished
    folder: Path  # for what is made from it


def run(study_file: Path, typed: TypedSettings = TypedSettings(), options: Options = Options()) -> StudyOutcome:  # noqa: B008
    """Run what is missing of a study; what was typed beside it holds for every run.

    Raises:
        UsageError: the file is no study, a setting is the study's own to set, there is no such run, or nothing is left
            to submit.
        CellError: the training of some runs failed; the others are finished.
    """
    study = files.read_study(study_file)
    for setting in typed.settings:
        if setting.key in files.SET_BY_THE_STUDY:
            remedy = files.SET_BY_THE_STUDY[setting.key]
            raise UsageError(f"{setting.key} is the study's to set", where=setting.origin, remedy=remedy)
    phase = phase_of(study, typed)
    known = records.read_records(study.results)
    missing = [planned for planned in phase.planned_runs if _is_missing(planned, known, fresh=options.fresh)]
    wanted = missing
    if options.run_number is not None:
        if options.run_number > len(phase.planned_runs):
            raise UsageError(
                "no such run", where=f"--run={options.run_number}", why=f"there are {len(phase.planned_runs)}"
            )
        wanted = [planned for planned in missing if planned is phase.planned_runs[options.run_number - 1]]
    folder = runner.folder_of(study.name, phase.planned_runs[0].config.train.runs_dir)
    if options.print_slurm:
        if not wanted:
            why = f"all {len(phase.planned_runs)} runs are finished"
            raise UsageError(
                "nothing to submit", where=study.name, why=why, remedy="--study without it writes the report"
            )
        numbers = [number for number, planned in enumerate(phase.planned_runs, start=1) if planned in wanted]
        script = slurm.script(study.name, options.words, numbers)
        return StudyOutcome({**_answer(study, phase, wanted), "script": script}, None, folder)
    is_on_cpu = all(planned.config.train.device == "cpu" for planned in phase.planned_runs)
    gpus = [] if is_on_cpu else runner.visible_gpus()
    jobs = runner.jobs_for(None if options.run_number else options.jobs, gpus)
    num_done = len(phase.planned_runs) - len(missing)
    alike = {
        planned.key: known[planned.key]
        for planned in (*phase.tuned.planned_runs, *phase.planned_runs)
        if planned.key in known
    }
    seconds = _announce(study, phase, wanted, alike, jobs, num_done=num_done, is_timed=options.dry_run)
    if options.dry_run:
        return StudyOutcome({**_answer(study, phase, wanted), "estimated_seconds": seconds}, None, folder)
    if wanted:
        records.check_writable(study.results)
        _train(study, phase, wanted, folder, num_done=num_done, jobs=jobs, gpus=gpus, options=options)
        known = records.read_records(study.results)
    answer = _answer(study, phase, [])
    if options.run_number is not None:
        return StudyOutcome(answer, None, folder)
    if phase.name == "tuning":
        _freeze(phase.tuned, known)
        return StudyOutcome(answer, None, folder)
    said = analyze_study(study, phase, known, typed)
    return StudyOutcome({**answer, **analysis.as_mapping(said)}, said, folder)


def phase_of(study: Study, typed: TypedSettings) -> Phase:
    """Return the runs to run: the tuning until its choice is written, then those that read the test images."""
    tuned = tuning.tuning(study, typed)
    choices = tuning.read_choices(tuned)
    if study.trials and choices is None:
        return Phase("tuning", tuned.planned_runs, tuned, None)
    return Phase("results", plan.results(study, typed, tuning.settings(choices)), tuned, choices)


def analyze_study(study: Study, phase: Phase, known: Mapping[str, Record], typed: TypedSettings) -> Analysis:
    """Return what the finished runs of a study say."""
    published = {planned.key for planned in plan.results(study, TypedSettings(), tuning.settings(phase.choices))}
    variants = []
    for variant in study.variants.values():
        planned_runs = [planned for planned in phase.planned_runs if planned.variant == variant.name]
        found = {planned.seed: known[planned.key] for planned in planned_runs if planned.key in known}
        paper = variant.paper if all(planned.key in published for planned in planned_runs) else {}
        num_trials = len(study.trials.get(variant.like or variant.name, ()))
        variants.append(
            VariantRuns(
                variant.name, variant.about, planned_runs[0].config, found, len(planned_runs), paper, num_trials
            )
        )
    contrasts = []
    for contrast in study.contrasts:
        second = tuning.best_variant(contrast.against, phase.choices)
        among = ", ".join(contrast.against)
        about = f"the best on validation of {among}" if len(contrast.against) > 1 else ""
        contrasts.append(Pair(contrast.of, second, about))
    notes = [f"variants have unequal numbers of trials: {study.unequal_trials}"] if study.unequal_trials else []
    notes += too_few_seeds(study)
    of_other_code = _num_of_other_code(phase.planned_runs, known)
    if of_other_code:
        notes.append(f"{of_other_code} runs were made by other code than the present; --fresh repeats them")
    return analysis.analyze(
        study.name,
        variants,
        metrics=study.metrics,
        contrasts=contrasts,
        checks=[Pair(check.of, check.against, "", check.expect) for check in study.checks],
        about=study.about,
        margin=study.margin,
        budget=study.budget,
        notes=notes,
    )


def too_few_seeds(study: Study) -> list[str]:
    """Return a note where no contrast can come out significant, whatever is measured."""
    if not study.contrasts:
        return []
    num_seeds = {name: len(variant.seeds) for name, variant in study.variants.items()}
    counts = [min(num_seeds[item.of], max(num_seeds[name] for name in item.against)) for item in study.contrasts]
    num_tests = sum(count >= intervals.MIN_SEEDS_FOR_P for count in counts) or len(counts)
    needed, most = intervals.seeds_needed(num_tests), max(counts)
    if most >= needed:
        return []
    contrasts = "one contrast" if num_tests == 1 else f"{num_tests} contrasts"
    return [f"with {contrasts} a p-value can fall under 0.05 from {needed} seeds on; these are {most}"]


def _is_missing(planned: PlannedRun, known: Mapping[str, Record], *, fresh: bool) -> bool:
    """Tell whether a run has no record; with `fresh`, one of other code does not count."""
    return planned.key not in known or (fresh and known[planned.key].get("code") != fingerprint())


def _num_of_other_code(planned_runs: Sequence[PlannedRun], known: Mapping[str, Record]) -> int:
    return sum(known[planned.key].get("code") != fingerprint() for planned in planned_runs if planned.key in known)


def _announce(
    study: Study,
    phase: Phase,
    missing: Sequence[PlannedRun],
    known: Mapping[str, Record],
    jobs: int,
    *,
    num_done: int,
    is_timed: bool,
) -> float | None:
    """Show the plan, and return the seconds that the missing runs will take, where that can be told.

    Without finished runs that takes steps `is_timed`, which a study that trains leaves out: the GPU is its runs' own.
    """
    counts = len(phase.planned_runs), num_done, len(missing)
    log.info("%s, %s: %d runs, %d finished, %d to run", study.name, phase.name, *counts)
    of_other_code = _num_of_other_code([planned for planned in phase.planned_runs if planned not in missing], known)
    if of_other_code:
        log.info("note: %d finished runs were made by other code; --fresh repeats them", of_other_code)
    for note in too_few_seeds(study):
        log.info("note: %s", note)
    if not missing:
        return 0.0
    sizes: dict[str, int | None] = {}
    for name in dict.fromkeys(planned.variant for planned in phase.planned_runs):
        planned_runs = [planned for planned in phase.planned_runs if planned.variant == name]
        samples = estimate.samples_seen(planned_runs[0].config, sizes)
        to_run = sum(planned.variant == name for planned in missing)
        text = "unknown, the data are not there" if samples is None else f"{samples:,}"
        log.info("  %-28s %3d runs, %3d to run, samples seen of each: %s", name, len(planned_runs), to_run, text)
    seconds = estimate.seconds(missing, known.values()) if known or is_timed else None
    if seconds is not None:
        by = "by the runs already finished" if known else "by steps timed now, without evaluations"
        log.info("about %s, %d at a time, %s", estimate.duration(seconds / jobs), jobs, by)
    return None if seconds is None else seconds / jobs


def _train(
    study: Study,
    phase: Phase,
    missing: Sequence[PlannedRun],
    folder: Path,
    *,
    num_done: int,
    jobs: int,
    gpus: Sequence[str],
    options: Options,
) -> None:
    """Train the missing runs and keep their records.

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
        raise runner.StudyRunError(failed[0], len(failed), folder / "runs" / f"{failed[0].planned.key}.log")


class _Progress:
    """Keep the record of each finished run, and say one line about it."""

    def __init__(self, study: Study, phase: Phase, num_before: int, num_missing: int) -> None:
        self.study, self.phase = study, phase
        self.num_done, self.num_missing, self.num_made = num_before, num_missing, 0
        self._started = time.monotonic()

    def keep(self, outcome: runner.RunOutcome) -> None:
        """Write the record of a finished run."""
        assert outcome.run is not None
        planned = outcome.planned
        record = {
            "key": planned.key,
            "study": self.study.name,
            "phase": self.phase.name,
            "variant": planned.variant,
            "trial": planned.trial,
            **records.record_of_run(outcome.run),
        }
        record["seed"] = planned.seed  # of the seed; an offset is part of the settings
        records.append_record(self.study.results, record)
        self.num_done += 1
        self.num_made += 1
        seconds = (time.monotonic() - self._started) / self.num_made
        left = self.num_missing - self.num_made
        split = record["split"]
        log.info(
            "run %d/%d  %s: %s error %.2f %%, %.0f s%s",
            self.num_done,
            len(self.phase.planned_runs),
            planned.title,
            split,
            record["metrics"][split]["error"],
            record["seconds"],
            f"; about {estimate.duration(left * seconds)} left" if left else "",
        )


def _freeze(tuned: Tuning, known: Mapping[str, Record]) -> None:
    """Choose by the finished tuning, and write the choice."""
    choices = tuning.choose(tuned, known)
    tuning.write_choices(tuned, choices)
    for variant, choice in choices.items():
        log.info("%s: trial %d, validation top1 %.2f %%", variant, choice.trial, choice.validation_top1)
    log.info("the settings are chosen: %s. Commit it; --study again measures on the test images", tuned.path)


def _answer(study: Study, phase: Phase, missing: Sequence[PlannedRun]) -> Result:
    return {
        "mode": "study",
        "study": study.name,
        "phase": phase.name,
        "num_runs": len(phase.planned_runs),
        "missing": [
            {"key": planned.key, "variant": planned.variant, "seed": planned.seed, "trial": planned.trial}
            for planned in missing
        ],
    }


def _end(number: int, frame: FrameType | None) -> None:
    """End as a program that was told to: what it started is ended too."""
    raise SystemExit(128 + number)
