"""Run a study from its file: tune, freeze the settings, measure, analyze."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agmax.core import storage
from agmax.core.errors import UsageError
from agmax.core.logs import log
from agmax.core.signals import stop_at_once
from agmax.experiments.source_hash import source_hash
from agmax.studies import analysis, estimate, intervals, plan, records, runner, slurm, spec, tuning
from agmax.studies.analysis import Analysis, Pair, VariantRuns
from agmax.studies.plan import PlannedRun, TypedSettings
from agmax.studies.records import Record
from agmax.studies.spec import Study
from agmax.studies.tuning import Choice, Tuning


class Phase(NamedTuple):
    """The current phase of a study: tuning, or results."""

    name: str  # tuning or results
    planned_runs: list[PlannedRun]
    tuning: Tuning
    choices: dict[str, Choice] | None


class Options(NamedTuple):
    """The options of --study."""

    dry_run: bool = False  # report what would be trained, and for how long
    fresh: bool = False  # repeat the runs of other code
    jobs: int | None = None  # runs at a time
    run_number: int | None = None  # only this run, counted from 1
    print_slurm: bool = False  # return an array job whose tasks repeat `words`
    words: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()  # files that every run imports first


class StudyOutcome(NamedTuple):
    """The outcome of one call of a study."""

    result: dict[str, Any]  # for --json
    analysis: Analysis | None  # where all runs are finished
    folder: Path  # of tables and figures


def run(study_file: Path, typed: TypedSettings = TypedSettings(), options: Options = Options()) -> StudyOutcome:  # noqa: B008
    """Train the missing runs of a study and analyze it; `typed` settings apply to every run.

    Raises:
        UsageError: the file is not a valid study, a typed setting is set by the study, the run number does not exist,
            or no run is left to submit.
        StudyRunError: the training of some runs failed; the others are finished.
    """
    study = spec.read_study(study_file)
    for setting in typed.settings:
        if setting.key in spec.SET_BY_THE_STUDY:
            remedy = spec.SET_BY_THE_STUDY[setting.key]
            raise UsageError(f"{setting.key} is the study's to set", where=setting.origin, remedy=remedy)
    phase = phase_of(study, typed)
    record_of = records.read_records(study.records_path)
    missing = [planned for planned in phase.planned_runs if _is_missing(planned, record_of, fresh=options.fresh)]
    to_train = missing
    if options.run_number is not None:
        if options.run_number > len(phase.planned_runs):
            why = f"the study has {len(phase.planned_runs)} runs"
            raise UsageError("no such run", where=f"--run={options.run_number}", why=why)
        to_train = [planned for planned in missing if planned is phase.planned_runs[options.run_number - 1]]
    folder = runner.folder_of(study.name, phase.planned_runs[0].config.train.runs_dir)
    if options.print_slurm:
        if not to_train:
            why, remedy = f"all {len(phase.planned_runs)} runs are finished", "Leave --print-slurm out for the report"
            raise UsageError("nothing to submit", where=study.name, why=why, remedy=remedy)
        numbers = [number for number, planned in enumerate(phase.planned_runs, start=1) if planned in to_train]
        script = slurm.script(study.name, options.words, numbers)
        return StudyOutcome({**_result(study, phase, to_train), "script": script}, None, folder)
    is_on_cpu = all(planned.config.train.device == "cpu" for planned in phase.planned_runs)
    gpus = [] if is_on_cpu else runner.visible_gpus()
    jobs = runner.num_jobs(None if options.run_number else options.jobs, gpus)
    num_done = len(phase.planned_runs) - len(missing)
    finished = {
        planned.key: record_of[planned.key]
        for planned in (*phase.tuning.planned_runs, *phase.planned_runs)
        if planned.key in record_of
    }
    seconds = _report_plan(study, phase, to_train, finished, jobs, num_done=num_done, is_timed=options.dry_run)
    if options.dry_run:
        return StudyOutcome({**_result(study, phase, to_train), "estimated_seconds": seconds}, None, folder)
    if to_train:
        storage.check_writable(study.records_path, what=records.WHAT, remedy=records.REMEDY)
        _train(study, phase, to_train, folder, num_done=num_done, jobs=jobs, gpus=gpus, options=options)
        record_of = records.read_records(study.records_path)
    result = _result(study, phase, [])
    if options.run_number is not None:
        return StudyOutcome(result, None, folder)
    if phase.name == "tuning":
        _freeze(phase.tuning, record_of)
        return StudyOutcome(result, None, folder)
    analyzed = analyze_study(study, phase, record_of)
    return StudyOutcome({**result, **analysis.as_mapping(analyzed)}, analyzed, folder)


def phase_of(study: Study, typed: TypedSettings) -> Phase:
    """Return the tuning until its choices are written, then the runs evaluated on the test images."""
    tune = tuning.plan_tuning(study, typed)
    choices = tuning.read_choices(tune)
    if study.trials and choices is None:
        return Phase("tuning", tune.planned_runs, tune, None)
    return Phase("results", plan.result_runs(study, typed, tuning.chosen_settings(choices)), tune, choices)


def analyze_study(study: Study, phase: Phase, record_of: Mapping[str, Record]) -> Analysis:
    """Analyze the finished runs of a study; `record_of` maps keys of runs to records."""
    without_overrides = plan.result_runs(study, TypedSettings(), tuning.chosen_settings(phase.choices))
    published = {planned.key for planned in without_overrides}
    variants = []
    for variant in study.variants.values():
        planned_runs = [planned for planned in phase.planned_runs if planned.variant == variant.name]
        by_seed = {planned.seed: record_of[planned.key] for planned in planned_runs if planned.key in record_of}
        paper = variant.paper if all(planned.key in published for planned in planned_runs) else {}
        num_trials = len(study.trials.get(variant.like or variant.name, ()))
        variants.append(
            VariantRuns(
                variant.name, variant.about, planned_runs[0].config, by_seed, len(planned_runs), paper, num_trials
            )
        )
    contrasts = []
    for contrast in study.contrasts:
        second = tuning.best_variant(contrast.against, phase.choices)
        about = f"the best on validation of {', '.join(contrast.against)}" if len(contrast.against) > 1 else ""
        contrasts.append(Pair(contrast.of, second, about))
    notes = [f"variants have unequal numbers of trials: {study.unequal_trials}"] if study.unequal_trials else []
    notes += too_few_seeds(study)
    num_of_other_code = _num_of_other_code(phase.planned_runs, record_of)
    if num_of_other_code:
        notes.append(f"{num_of_other_code} runs are of another version of the code; --fresh repeats them")
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
    """Return a note where the study has too few seeds for any significant contrast."""
    if not study.contrasts:
        return []
    num_seeds = {name: len(variant.seeds) for name, variant in study.variants.items()}
    counts = [min(num_seeds[item.of], max(num_seeds[name] for name in item.against)) for item in study.contrasts]
    num_tests = sum(count >= intervals.MIN_SEEDS_FOR_P for count in counts) or len(counts)
    needed, most = intervals.seeds_needed(num_tests), max(counts)
    if most >= needed:
        return []
    contrasts = "one contrast" if num_tests == 1 else f"{num_tests} contrasts"
    return [f"with {contrasts}, a p-value below 0.05 needs at least {needed} seeds; this study has {most}"]


def _is_missing(planned: PlannedRun, record_of: Mapping[str, Record], *, fresh: bool) -> bool:
    """Return whether a run has no record; with `fresh`, records of other code do not count."""
    return planned.key not in record_of or (fresh and record_of[planned.key].get("code") != source_hash())


def _num_of_other_code(planned_runs: Sequence[PlannedRun], record_of: Mapping[str, Record]) -> int:
    listed = [record_of[planned.key] for planned in planned_runs if planned.key in record_of]
    return sum(record.get("code") != source_hash() for record in listed)


def _report_plan(
    study: Study,
    phase: Phase,
    to_train: Sequence[PlannedRun],
    finished: Mapping[str, Record],
    jobs: int,
    *,
    num_done: int,
    is_timed: bool,
) -> float | None:
    """Log the plan, and return the estimated seconds of the runs to train; None where they cannot be estimated.

    Without finished runs, the estimate is made from a few timed steps where `is_timed`. A study that trains does not
    time steps: they would occupy the GPU of its runs.
    """
    counts = len(phase.planned_runs), num_done, len(to_train)
    log.info("%s, %s: %d runs, %d finished, %d to run", study.name, phase.name, *counts)
    num_of_other_code = _num_of_other_code([item for item in phase.planned_runs if item not in to_train], finished)
    if num_of_other_code:
        log.info("note: %d finished runs are of another version of the code; --fresh repeats them", num_of_other_code)
    for note in too_few_seeds(study):
        log.info("note: %s", note)
    if not to_train:
        return 0.0
    sizes: dict[str, int | None] = {}
    for name in dict.fromkeys(planned.variant for planned in phase.planned_runs):
        planned_runs = [planned for planned in phase.planned_runs if planned.variant == name]
        samples = estimate.samples_seen(planned_runs[0].config, sizes)
        num_to_train = sum(planned.variant == name for planned in to_train)
        text = "unknown, the data set was not found" if samples is None else f"{samples:,}"
        log.info("  %-28s %3d runs, %3d to run, samples seen of each: %s", name, len(planned_runs), num_to_train, text)
    seconds = estimate.seconds(to_train, finished.values()) if finished or is_timed else None
    if seconds is not None:
        source = "from the finished runs" if finished else "from a few timed steps, without evaluations"
        log.info("about %s, %d at a time (estimated %s)", estimate.duration(seconds / jobs), jobs, source)
    return None if seconds is None else seconds / jobs


def _train(
    study: Study,
    phase: Phase,
    to_train: Sequence[PlannedRun],
    folder: Path,
    *,
    num_done: int,
    jobs: int,
    gpus: Sequence[str],
    options: Options,
) -> None:
    """Train the runs and append their records.

    Raises:
        StudyRunError: some runs failed; the others are finished.
    """
    progress = _Progress(study, phase, num_done, len(to_train))
    with stop_at_once():  # the child processes are ended too: each saves
        failed = runner.run_all(
            to_train,
            folder,
            jobs=jobs,
            gpus=gpus,
            fresh=options.fresh,
            imports=options.imports,
            done=progress.add,
        )
    if failed:
        raise runner.StudyRunError(failed[0], len(failed), folder / "runs" / f"{failed[0].planned.key}.log")


class _Progress:
    """Append the record of each finished run, and log one line about it."""

    def __init__(self, study: Study, phase: Phase, num_done: int, num_to_train: int) -> None:
        self.study, self.phase = study, phase
        self.num_done, self.num_to_train, self.num_added = num_done, num_to_train, 0
        self._started = time.monotonic()

    def add(self, outcome: runner.RunOutcome) -> None:
        """Append the record of a finished run."""
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
        record["seed"] = planned.seed  # without the variant's offset, which is part of the settings
        records.append_record(self.study.records_path, record)
        self.num_done += 1
        self.num_added += 1
        seconds = (time.monotonic() - self._started) / self.num_added
        num_left = self.num_to_train - self.num_added
        split = record["split"]
        log.info(
            "run %d/%d  %s: %s error %.2f %%, %.0f s%s",
            self.num_done,
            len(self.phase.planned_runs),
            planned.title,
            split,
            record["metrics"][split]["error"],
            record["seconds"],
            f"; about {estimate.duration(num_left * seconds)} left" if num_left else "",
        )


def _freeze(tune: Tuning, record_of: Mapping[str, Record]) -> None:
    """Choose the settings from the finished tuning, and write them."""
    choices = tuning.choose(tune, record_of)
    tuning.write_choices(tune, choices)
    for variant, choice in choices.items():
        log.info("%s: trial %d, validation top1 %.2f %%", variant, choice.trial, choice.validation_top1)
    log.info("chosen settings: %s. Commit the file; the next --study measures on the test images", tune.path)


def _result(study: Study, phase: Phase, missing: Sequence[PlannedRun]) -> dict[str, Any]:
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
