"""Compare run folders that are there already, as a study compares its cells."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agmax.config import names, resolve
from agmax.config.schema import Config
from agmax.core.errors import CheckpointError, UsageError
from agmax.evaluation.metrics import measured
from agmax.experiments import start
from agmax.experiments.run_folder import Run, find
from agmax.experiments.start import NOT_THE_RESULT
from agmax.studies import records
from agmax.studies.analysis import OF_NO_ARM, Analysis, Arm, Pair, analyse

CHOSEN_AFTERWARDS = "the pairs were chosen when the runs were there: the p-values describe, they do not confirm"


class Side(NamedTuple):
    """One of the two that --diff sets against each other."""

    text: str
    config: Config
    metrics: dict[str, float]


def of_runs(texts: Sequence[str], runs_dir: str) -> tuple[Analysis, Path]:
    """Compare finished runs: those that differ in their seeds alone are replicates of one arm.

    Every arm is compared with the first. Return the analysis, and the folder for what is made from it.

    Raises:
        UsageError: a run is given twice, or was not evaluated on the test images.
        CheckpointError: there is no such run.
    """
    arms: list[Arm] = []
    runs = [_finished(text, runs_dir) for text in texts]
    for run in runs:
        config = start.settings_of(run)
        assert config is not None, "a finished run has a configuration"
        try:
            record = records.of_run(run)
        except (KeyError, OSError, ValueError) as error:
            remedy = "Restore it, or train again: runs of early releases lack some of it"
            raise CheckpointError("run folder is not whole", where=run.path, why=str(error), remedy=remedy) from error
        if "test" not in record["metrics"]:
            raise UsageError(
                "run without test metrics", where=run.path, why="it was trained with evaluation.test=false"
            )
        for number, arm in enumerate(arms):
            if not resolve.differences(arm.config, config, ignore=(*NOT_THE_RESULT, *OF_NO_ARM)):
                if record["seed"] in arm.records:
                    why = f"two runs of {arm.name} have seed {record['seed']}"
                    raise UsageError("a replicate stands twice", where=run.path, why=why, remedy="Leave one out")
                arm.records[record["seed"]] = record
                arms[number] = arm._replace(num_planned=len(arm.records))
                break
        else:
            arms.append(Arm(config.name, "", config, {record["seed"]: record}, 1, {}))
    arms = _told_apart(arms)
    pairs = [Pair(arm.name, arms[0].name) for arm in arms[1:]]
    datasets = ", ".join(dict.fromkeys(arm.config.dataset.name for arm in arms))
    analysis = analyse(
        f"{len(runs)} runs on {datasets}",
        arms,
        metrics=("error", "nll", "ece"),
        contrasts=pairs,
        notes=[CHOSEN_AFTERWARDS] if pairs else [],
    )
    digest = hashlib.sha256("\n".join(sorted(str(run.path.resolve()) for run in runs)).encode()).hexdigest()[:8]
    return analysis, Path(runs_dir).expanduser() / "studies" / f"compare-{digest}"


def _finished(text: str, runs_dir: str) -> Run:
    path = _found(text, runs_dir)
    run = Run(path)
    if not path.is_dir() or run.read_json("result.json") is None:
        why = "it has no result.json"
        raise CheckpointError(
            "not a finished run", where=path, why=why, remedy="Give run folders; --train --resume ends one"
        )
    return run


def _found(text: str, runs_dir: str) -> Path:
    """Find a run folder as typed or below the folder of runs; where there is none, name the nearest."""
    try:
        return find(text, runs_dir)
    except CheckpointError as error:
        there = [str(found.parent) for found in Path(runs_dir).expanduser().glob("*/*/result.json")]
        remedy = names.nearest(text, there) if there else f"There is none in {runs_dir}"
        raise CheckpointError("no such run", where=text, remedy=remedy) from error


def _told_apart(arms: Sequence[Arm]) -> list[Arm]:
    """Give arms of one name the settings that tell them apart."""
    named = []
    for arm in arms:
        same = [other for other in arms if other.name == arm.name]
        keys = {
            difference.split(":")[0]
            for other in same
            for difference in resolve.differences(arm.config, other.config, ignore=(*NOT_THE_RESULT, *OF_NO_ARM))
        }
        leaves = dict(names.leaves(arm.config.model_dump(mode="json")))
        words = ", ".join(f"{key}={leaves.get(key)}" for key in sorted(keys))
        named.append(arm._replace(name=f"{arm.name} ({words})" if words else arm.name))
    return named


def diff(texts: Sequence[str], runs_dir: str) -> dict[str, Any]:
    """Return the settings and metrics in which two runs, or two configurations, differ.

    Raises:
        UsageError: there is no such configuration.
        CheckpointError: there is no such run.
    """
    first, second = (_side(text, runs_dir) for text in texts)
    before, after = (dict(names.leaves(side.config.model_dump(mode="json"))) for side in (first, second))
    differing = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    shared = [name for name in first.metrics if name in second.metrics]
    return {
        "mode": "diff",
        "a": first.text,
        "b": second.text,
        "settings": {key: [before.get(key), after.get(key)] for key in differing},
        "metrics": {name: [first.metrics[name], second.metrics[name]] for name in shared},
    }


def _side(text: str, runs_dir: str) -> Side:
    """Read a run folder or, where there is none of that name, a configuration."""
    is_name = not resolve.is_path(text) or text.endswith((".yaml", ".yml"))
    try:
        run = Run(_found(text, runs_dir))
    except CheckpointError:
        if not is_name:
            raise
        return Side(text, resolve.resolve(text).config, {})
    config = start.settings_of(run)
    if config is None and is_name:
        return Side(text, resolve.resolve(text).config, {})
    if config is None:
        raise CheckpointError("not a run folder", where=run.path, why="it has no config.yaml")
    result = run.read_json("result.json") or {}
    shown = (*measured(), "epochs", "seconds")
    return Side(text, config, {name: result[name] for name in shown if name in result})
