"""Choose each variant's settings on the validation images, and store the choice in a file."""

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
    """The best trial of a variant."""

    trial: int
    validation_top1: float  # mean over the seeds of the tuning, percent
    of_trials: tuple[float, ...]  # of every trial
    settings: tuple[Setting, ...]


class Tuning(NamedTuple):
    """The runs of a tuning, and the file of its choices."""

    study: Study
    planned_runs: list[PlannedRun]
    digest: str  # hash of the runs' keys
    path: Path


def plan_tuning(study: Study, typed: TypedSettings) -> Tuning:
    """Plan the tuning of a study; with overrides that change its runs, its choices go to a separate file."""
    planned_runs = plan.tuning_runs(study, typed)
    digest, digest_of_file = _digest(planned_runs), _digest(plan.tuning_runs(study, TypedSettings()))
    return Tuning(study, planned_runs, digest, study.choices_path("" if digest == digest_of_file else f"-{digest}"))


def _digest(planned_runs: Sequence[PlannedRun]) -> str:
    return hashlib.sha256("\n".join(planned.key for planned in planned_runs).encode()).hexdigest()[:12]


def choose(tune: Tuning, records: Mapping[str, Record]) -> dict[str, Choice]:
    """Return for each variant the trial of the highest mean validation top1; ties go to the first."""
    top1_of: dict[str, dict[int, list[float]]] = {}  # variant -> trial -> one value for each seed
    for planned in tune.planned_runs:
        assert planned.trial is not None
        top1 = records[planned.key]["metrics"]["validation"]["top1"]
        top1_of.setdefault(planned.variant, {}).setdefault(planned.trial, []).append(top1)
    choices = {}
    for variant, trials in top1_of.items():
        means = tuple(round(mean(trials[trial]), 4) for trial in sorted(trials))
        best = means.index(max(means))
        choices[variant] = Choice(best, means[best], means, tune.study.trials[variant][best])
    return choices


def write_choices(tune: Tuning, choices: Mapping[str, Choice]) -> None:
    """Write the choices beside the results; an existing file, written by another process, is kept.

    Raises:
        OutputError: the file cannot be written.
    """
    seeds = ", ".join(map(str, tune.study.tune_seeds))
    lines = [
        f"# Chosen by the mean validation top1 over the seeds {seeds} of {tune.study.name}.",
        "# Frozen: the runs that read the test images take their settings from here.",
        f'runs: "{tune.digest}"',
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
    what = "cannot write the chosen settings"
    storage.make_folder(tune.path.parent, what=what)
    with suppress(storage.AlreadyExistsError), storage.atomic_file(tune.path, replace=False, what=what) as file:
        file.write(("\n".join(lines) + "\n").encode())


def read_choices(tune: Tuning) -> dict[str, Choice] | None:
    """Return the choices from their file, or None where the file does not exist.

    Raises:
        UsageError: the file does not match the study.
    """
    if not tune.path.is_file():
        return None
    document = reader.read_yaml(tune.path)
    chosen = document.mapping.get("chosen")
    if document.mapping.get("runs") != tune.digest or not isinstance(chosen, dict):
        why = "variants, trials, seeds or settings of the study have changed since the tuning"
        remedy = "Restore the study, or remove the file to tune again"
        raise UsageError("the choices do not match the study", where=tune.path, why=why, remedy=remedy)
    return {
        variant: _choice(chosen.get(variant), trials, document.where(f"chosen.{variant}"))
        for variant, trials in tune.study.trials.items()
    }


def _choice(value: Any, trials: Sequence[Sequence[Setting]], where: str) -> Choice:
    """Read the choice of a variant, and check that it is one of its trials in the study."""
    try:
        settings = tuple(Setting(key, number, where) for key, number in names.leaves(value["settings"]))
        choice = Choice(value["trial"], value["validation_top1"], tuple(value["of_trials"]), settings)
        chosen = [(setting.key, setting.value) for setting in trials[choice.trial]]
        is_best = choice.validation_top1 == choice.of_trials[choice.trial] == max(choice.of_trials)
        is_valid = is_best and chosen == [(setting.key, setting.value) for setting in settings]
    except (AttributeError, IndexError, KeyError, TypeError):
        is_valid = False
    if not is_valid:
        why = "it is not the best trial with its settings in the study"
        remedy = "Restore it, or remove the file to tune again"
        raise UsageError("the choice was edited", where=where, why=why, remedy=remedy)
    return choice


def chosen_settings(choices: Mapping[str, Choice] | None) -> dict[str, Sequence[Setting]]:
    """Return the chosen settings of each variant."""
    return {variant: choice.settings for variant, choice in (choices or {}).items()}


def best_variant(variants: Sequence[str], choices: Mapping[str, Choice] | None) -> str:
    """Return the variant with the highest validation top1 in the tuning; a single variant needs no tuning."""
    if len(variants) == 1:
        return variants[0]
    assert choices is not None, "read_study refuses several comparators without trials"
    return max(variants, key=lambda variant: choices[variant].validation_top1)
