"""The runs of the shipped studies."""

import functools
from typing import Any

from agmax.config import names, reader
from agmax.config.resolve import Setting
from agmax.config.schema import Config
from agmax.studies import plan, spec
from agmax.studies.plan import PlannedRun, TypedSettings
from agmax.studies.spec import Study

SHIPPED = sorted(path.stem for path in (names.CONFIGS / "study").glob("*.yaml"))


@functools.lru_cache
def shipped(name: str) -> Study:
    return spec.read_study(spec.find_study(name))


def first_trials(of: Study) -> dict[str, Any]:
    """Return what a tuning would choose if the first trial of every variant were the best."""
    return {variant: trials[0] for variant, trials in of.trials.items()}


@functools.lru_cache
def runs_of_results(name: str, *, dataset: str | None = None, typed: tuple[str, ...] = ()) -> list[PlannedRun]:
    """Return the runs of a shipped study that read the test images, under settings written as on the command line."""
    given = [Setting(key, reader.parse_value(value), "typed") for key, _, value in (t.partition("=") for t in typed)]
    of = shipped(name)
    return plan.result_runs(of, TypedSettings(dataset, (), tuple(given)), first_trials(of))


def runs_of_tuning(name: str) -> list[PlannedRun]:
    return plan.tuning_runs(shipped(name), TypedSettings())


def leaves(config: Config, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {key: value for key, value in names.leaves(config.model_dump()) if key not in without}


def planned_of(planned_runs: list[PlannedRun], variant: str, seed: int = 0, trial: int | None = None) -> PlannedRun:
    [found] = [
        planned for planned in planned_runs if (planned.variant, planned.seed, planned.trial) == (variant, seed, trial)
    ]
    return found
