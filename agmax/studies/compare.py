"""Compare run folders that are there already, as a study compares its runs."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agmax.config import names, resolve
from agmax.config.schema import Config
from agmax.core.errors import CheckpointError, UsageError
from agmax.evaluation.metrics import computed_metrics
from agmax.experiments import start
from agmax.experiments.run_folder import RunFolder, find
from agmax.experiments.start import IRRELEVANT_SETTINGS
from agmax.studies import records
from agmax.studies.analysis import NOT_OF_THE_VARIANT, Analysis, Pair, VariantRuns, analyze

CHOSEN_AFTERWARDS = "the pairs were chosen when the runs were there: the p-values describe, they do not confirm"


class Side(NamedTuple):
    """One of the two that --diff sets against each other."""

    text: str
    config: Config
    metrics: dict[str, float]


def compare_runs(texts: Sequence[str], runs_dir: str) -> tuple[Analysis, Path]:
    """Compare finished runs: those that differ in their seeds alone are seeds of one variant.

    Every variant is compared with the first. Return the analysis, and the folder for what is made from it.

    Raises:
        UsageError: a run is given twice, or was not evaluated on the test images.
        CheckpointError: there is no such run.
    """
    variants: list[VariantRuns] = []
    runs = [_finished_run(text, runs_dir) for text in texts]
    for run in runs:
        config = start.settings_of(run)
        assert config is not None, "a finished run has a configuration"
        try:
            record = records.record_of_run(run)
        except (KeyError, OSError, ValueError) as error:
            remedy = "Restore it, or train again: runs of early releases lack some of it"
            raise CheckpointError("run folder is not whole", where=run.path, why=str(error), remedy=remedy) from error
        if "test" not in record["metrics"]:
            raise UsageError(
                "run without test metrics", where=run.path, why="it was trained with evaluation.test=false"
            )
        for number, variant in enumerate(variants):
            if not resolve.differences(variant.config, config, ignore=(*IRRELEVANT_SETTINGS, *NOT_OF_THE_VARIANT)):
                if record["seed"] in variant.records:
                    why = f"two runs of {variant.name} have seed {record['seed']}"
                    raise UsageError("a seed stands twice", where=run.path, why=why, remedy="Leave one out")
                variant.records[record["seed"]] = record
                variants[number] = variant._replace(num_planned=len(variant.records))
                break
        else:
            variants.append(VariantRuns(config.name, "", config, {record["seed"]: record}, 1, {}))
    variants = _distinguish_names(variants)
    pairs = [Pair(variant.name, variants[0].name) for variant in variants[1:]]
    datasets = ", ".join(dict.fromkeys(variant.config.dataset.name for variant in variants))
    analysis = analyze(
        f"{len(runs)} runs on {datasets}",
        variants,
        metrics=("error", "nll", "ece"),
        contrasts=pairs,
        notes=[CHOSEN_AFTERWARDS] if pairs else [],
    )
    digest = hashlib.sha256("\n".join(sorted(str(run.path.resolve()) for run in runs)).encode()).hexdigest()[:8]
    return analysis, Path(runs_dir).expanduser() / "studies" / f"compare-{digest}"


def _finished_run(text: str, runs_dir: str) -> RunFolder:
    path = _find_run(text, runs_dir)
    run = RunFolder(path)
    if not path.is_dir() or run.read_json("result.json") is None:
        why = "it has no result.json"
        raise CheckpointError(
            "not a finished run", where=path, why=why, remedy="Give run folders; --train --resume ends one"
        )
    return run


def _find_run(text: str, runs_dir: str) -> Path:
    """Find a run folder as typed or below the folder of runs; where there is none, name the nearest."""
    try:
        return find(text, runs_dir)
    except CheckpointError as error:
        there = [str(found.parent) for found in Path(runs_dir).expanduser().glob("*/*/result.json")]
        remedy = names.nearest(text, there) if there else f"There is none in {runs_dir}"
        raise CheckpointError("no such run", where=text, remedy=remedy) from error


def _distinguish_names(variants: Sequence[VariantRuns]) -> list[VariantRuns]:
    """Give variants of one name the settings that tell them apart."""
    named = []
    for variant in variants:
        same = [other for other in variants if other.name == variant.name]
        keys = {
            difference.split(":")[0]
            for other in same
            for difference in resolve.differences(
                variant.config, other.config, ignore=(*IRRELEVANT_SETTINGS, *NOT_OF_THE_VARIANT)
            )
        }
        leaves = dict(names.leaves(variant.config.model_dump(mode="json")))
        words = ", ".join(f"{key}={leaves.get(key)}" for key in sorted(keys))
        named.append(variant._replace(name=f"{variant.name} ({words})" if words else variant.name))
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
        run = RunFolder(_find_run(text, runs_dir))
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
    shown = (*computed_metrics(), "epochs", "seconds")
    return Side(text, config, {name: result[name] for name in shown if name in result})
