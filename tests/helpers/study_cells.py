"""The cells of the shipped studies."""

import functools
from typing import Any

from agmax.config import names, reader
from agmax.config.resolve import Setting
from agmax.config.schema import Config
from agmax.studies import plan, spec
from agmax.studies.plan import Cell, Typed
from agmax.studies.spec import Study

SHIPPED = sorted(path.stem for path in (names.CONFIGS / "study").glob("*.yaml"))


@functools.lru_cache
def shipped(name: str) -> Study:
    return spec.read(spec.find(name))


def first_trials(of: Study) -> dict[str, Any]:
    """Return what a tuning would choose if the first trial of every arm were the best."""
    return {arm: trials[0] for arm, trials in of.trials.items()}


@functools.lru_cache
def result_cells(name: str, *, dataset: str | None = None, typed: tuple[str, ...] = ()) -> list[Cell]:
    """Return the cells of a shipped study that read the test images, under settings written as on the command line."""
    given = [Setting(key, reader.parse_value(value), "typed") for key, _, value in (t.partition("=") for t in typed)]
    of = shipped(name)
    return plan.results(of, Typed(dataset, (), tuple(given)), first_trials(of))


def tuning_cells(name: str) -> list[Cell]:
    return plan.tuning(shipped(name), Typed())


def leaves(config: Config, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {key: value for key, value in names.leaves(config.model_dump()) if key not in without}


def cell_of(cells: list[Cell], variant: str, seed: int = 0, trial: int | None = None) -> Cell:
    [found] = [cell for cell in cells if (cell.variant, cell.seed, cell.trial) == (variant, seed, trial)]
    return found
