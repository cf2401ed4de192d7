"""Choose each arm's settings by the validation images, and keep the choice in a file that is frozen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from agmax.config import names, reader
from agmax.config.resolve import Setting
from agmax.config.study import Study
from agmax.errors import OutputError, UsageError
from agmax.studies.plan import Cell
from agmax.studies.records import Record


class Choice(NamedTuple):
    """The trial that was best for an arm."""

    trial: int
    validation_top1: float  # mean over the seeds of the tuning, percent
    of_trials: tuple[float, ...]  # the same of every trial
    settings: tuple[Setting, ...]


def choose(study: Study, cells: Sequence[Cell], records: Mapping[str, Record]) -> dict[str, Choice]:
    """Return for each arm the trial of the highest mean validation top1; of equals the first."""
    scores: dict[str, dict[int, list[float]]] = {}
    for cell in cells:
        assert cell.trial is not None
        top1 = records[cell.key]["metrics"]["validation"]["top1"]
        scores.setdefault(cell.variant, {}).setdefault(cell.trial, []).append(top1)
    choices = {}
    for arm, trials in scores.items():
        means = tuple(round(mean(trials[trial]), 4) for trial in sorted(trials))
        best = means.index(max(means))
        choices[arm] = Choice(best, means[best], means, study.trials[arm][best])
    return choices


def write(study: Study, choices: Mapping[str, Choice]) -> None:
    """Write the choices beside the results; a file that is there is never written over.

    Raises:
        OutputError: the file cannot be written, or is there.
    """
    lines = [
        f"# Chosen by the mean validation top1 over the seeds {', '.join(map(str, study.tune_seeds))} of {study.name}.",
        "# Frozen: the cells that read the test images take their settings from here.",
    ]
    for arm, choice in choices.items():
        lines += [
            f"{arm}:",
            f"  trial: {choice.trial}",
            f"  validation_top1: {choice.validation_top1}",
            f"  of_trials: [{', '.join(map(str, choice.of_trials))}]",
            "  settings:",
            *(f"    {setting.key}: {reader.format_value(setting.value)}" for setting in choice.settings),
        ]
    try:
        study.chosen.parent.mkdir(parents=True, exist_ok=True)
        with study.chosen.open("x", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except OSError as error:
        raise OutputError("cannot write the choice", where=study.chosen, why=error.strerror or "") from error


def read(study: Study) -> dict[str, Choice] | None:
    """Return the choices that were written, or None where there are none yet.

    Raises:
        UsageError: the file does not fit the study.
    """
    path: Path = study.chosen
    if not path.is_file():
        return None
    document = reader.read(path)
    if set(document.mapping) != set(study.trials):
        why = f"it has {', '.join(document.mapping)}; the study tunes {', '.join(study.trials)}"
        raise UsageError("the choice does not fit the study", where=path, why=why, remedy="Remove it to tune anew")
    return {arm: _choice(value, document.where(arm)) for arm, value in document.mapping.items()}


def _choice(value: Any, where: str) -> Choice:
    try:
        settings = tuple(Setting(key, number, where) for key, number in names.leaves(value["settings"]))
        return Choice(value["trial"], value["validation_top1"], tuple(value["of_trials"]), settings)
    except (KeyError, TypeError) as error:
        raise UsageError("not a choice", where=where, why=f"{error} is missing", remedy="Restore the file") from error


def settings(choices: Mapping[str, Choice] | None) -> dict[str, Sequence[Setting]]:
    """Return the chosen settings of each arm."""
    return {arm: choice.settings for arm, choice in (choices or {}).items()}


def best_of(arms: Sequence[str], choices: Mapping[str, Choice] | None) -> str:
    """Return the arm of the highest validation top1 in the tuning, or the only one."""
    if len(arms) == 1:
        return arms[0]
    assert choices is not None, "the reader refuses a choice among arms without trials"
    return max(arms, key=lambda arm: choices[arm].validation_top1)
