"""Choose each variant's settings by the validation images, and keep the choice in a file that is frozen."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from agmax.config import names, reader
from agmax.config.resolve import Setting
from agmax.core import storage
from agmax.core.errors import UsageError
from agmax.studies import plan
from agmax.studies.plan import PlannedRun, TypedSettings
from agmax.studies.records import Record
from agmax.studies.spec import Study


class Choice(NamedTuple):
    """The trial that was best for a variant."""

    trial: int
    validation_top1: float  # mean over the seeds of the tuning, percent
    of_trials: tuple[float, ...]  # the same of every trial
    settings: tuple[Setting, ...]


class Tuning(NamedTuple):
    """The runs of a tuning, and where its choice is kept."""

    study: Study
    planned_runs: list[PlannedRun]
    digest: str  # of the runs' keys
    path: Path


def tuning(study: Study, typed: TypedSettings) -> Tuning:
    """Return the tuning of a study; where settings typed beside it make other runs, the choice has its own file."""
    planned_runs, untyped = plan.tuning(study, typed), plan.tuning(study, TypedSettings())
    digest = _digest(planned_runs)
    return Tuning(study, planned_runs, digest, study.chosen("" if digest == _digest(untyped) else f"-{digest}"))


def _digest(planned_runs: Sequence[PlannedRun]) -> str:
    return hashlib.sha256("\n".join(planned.key for planned in planned_runs).encode()).hexdigest()[:12]


def choose(tuned: Tuning, records: Mapping[str, Record]) -> dict[str, Choice]:
    """Return for each variant the trial of the highest mean validation top1; of equals the first."""
    scores: dict[str, dict[int, list[float]]] = {}
    for planned in tuned.planned_runs:
        assert planned.trial is not None
        top1 = records[planned.key]["metrics"]["validation"]["top1"]
        scores.setdefault(planned.variant, {}).setdefault(planned.trial, []).append(top1)
    choices = {}
    for variant, trials in scores.items():
        means = tuple(round(mean(trials[trial]), 4) for trial in sorted(trials))
        best = means.index(max(means))
        choices[variant] = Choice(best, means[best], means, tuned.study.trials[variant][best])
    return choices


def write_choices(tuned: Tuning, choices: Mapping[str, Choice]) -> None:
    """Write the choices beside the results; a file that is there, by another program, is never written over.

    Raises:
        OutputError: the file cannot be written.
    """
    seeds = ", ".join(map(str, tuned.study.tune_seeds))
    lines = [
        f"# Chosen by the mean validation top1 over the seeds {seeds} of {tuned.study.name}.",
        "# Frozen: the runs that read the test images take their settings from here.",
        f'runs: "{tuned.digest}"',
        "chosen:",
    ]
    for variant, choice in choices.items():
        lines += [
            f"  {variant}:",
            f"    trial: {choice.trial}",
            f"    validation_top1: {choice.validation_top1}",
            f"    of_trials: [{', '.join(map(str, choice.of_trials))}]",
            "    settings:" if choice.settings else "    settings: {}",
            *(f"      {setting.key}: {reader.format_value(setting.value)}" for setting in choice.settings),
        ]
    what = "cannot write the choice"
    storage.make_folder(tuned.path.parent, what=what)
    with suppress(storage.AlreadyExistsError), storage.atomic_file(tuned.path, replace=False, what=what) as file:
        file.write(("\n".join(lines) + "\n").encode())


def read_choices(tuned: Tuning) -> dict[str, Choice] | None:
    """Return the choices that were written, or None where there are none yet.

    Raises:
        UsageError: the file does not fit the study.
    """
    if not tuned.path.is_file():
        return None
    document = reader.read_yaml(tuned.path)
    chosen = document.mapping.get("chosen")
    if document.mapping.get("runs") != tuned.digest or not isinstance(chosen, dict):
        why = "its tuning had other variants, trials, seeds or settings than the study has now"
        remedy = "Restore the study, or remove the file to tune anew"
        raise UsageError("the choice does not fit the study", where=tuned.path, why=why, remedy=remedy)
    return {
        variant: _choice(chosen.get(variant), trials, document.where(f"chosen.{variant}"))
        for variant, trials in tuned.study.trials.items()
    }


def _choice(value: Any, trials: Sequence[Sequence[Setting]], where: str) -> Choice:
    """Read the choice of a variant, which is one of its trials as it stands in the study."""
    try:
        settings = tuple(Setting(key, number, where) for key, number in names.leaves(value["settings"]))
        choice = Choice(value["trial"], value["validation_top1"], tuple(value["of_trials"]), settings)
        chosen = [(setting.key, setting.value) for setting in trials[choice.trial]]
        is_written = choice.validation_top1 == choice.of_trials[choice.trial] == max(choice.of_trials)
        is_written = is_written and chosen == [(setting.key, setting.value) for setting in settings]
    except (AttributeError, IndexError, KeyError, TypeError):
        is_written = False
    if not is_written:
        why = "it is not what a tuning writes: the best of the trials, with the settings that the study gives it"
        raise UsageError(
            "the choice was edited", where=where, why=why, remedy="Restore it, or remove the file to tune anew"
        )
    return choice


def settings(choices: Mapping[str, Choice] | None) -> dict[str, Sequence[Setting]]:
    """Return the chosen settings of each variant."""
    return {variant: choice.settings for variant, choice in (choices or {}).items()}


def best_variant(variants: Sequence[str], choices: Mapping[str, Choice] | None) -> str:
    """Return the variant of the highest validation top1 in the tuning, or the only one."""
    if len(variants) == 1:
        return variants[0]
    assert choices is not None, "the reader refuses a choice among variants without trials"
    return max(variants, key=lambda variant: choices[variant].validation_top1)
