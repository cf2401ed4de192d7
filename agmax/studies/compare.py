"""Compare existing run folders, as a study compares its runs."""

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

CHOSEN_AFTERWARDS = "the pairs were chosen after the runs: the p-values are exploratory, not confirmatory"


class Side(NamedTuple):
    """One of the two sides of --diff."""

    text: str
    config: Config
    metrics: dict[str, float]


def compare_runs(texts: Sequence[str], runs_dir: str) -> tuple[Analysis, Path]:
    """Compare finished runs; runs that differ only in their seed belong to one variant.

    Every variant is compared with the first. Return the analysis, and the folder for tables and figures.

    Raises:
        UsageError: two runs of a variant have the same seed, or a run has no test metrics.
        CheckpointError: a run does not exist or is not finished, or a file of it is missing or damaged.
    """
    variants: list[VariantRuns] = []
    runs = [_finished_run(text, runs_dir) for text in texts]
    for run in runs:
        config = start.settings_of(run)
        if config is None:
            raise _without_settings(run)
        record = records.record_of_run(run)
        if "test" not in record["metrics"]:
            why = "it was trained with evaluation.test=false"
            raise UsageError("run without test metrics", where=run.path, why=why, remedy="Leave it out")
        for number, variant in enumerate(variants):
            if not resolve.differences(variant.config, config, ignore=(*IRRELEVANT_SETTINGS, *NOT_OF_THE_VARIANT)):
                if record["seed"] in variant.records:
                    why = f"another run of {variant.name} has seed {record['seed']}"
                    raise UsageError("two runs of one seed", where=run.path, why=why, remedy="Leave one out")
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
    if not run.is_finished:
        why = "its result.json is damaged" if (path / "result.json").exists() else "it has no result.json"
        remedy = "Give finished run folders; --train --resume finishes one"
        raise CheckpointError("not a finished run", where=path, why=why, remedy=remedy)
    return run


def _without_settings(run: RunFolder) -> CheckpointError:
    path = run.path / "config.yaml"
    why = f"{path} is damaged or of another release" if path.is_file() else "it has no config.yaml"
    return CheckpointError("not a run folder", where=run.path, why=why)


def _find_run(text: str, runs_dir: str) -> Path:
    """Find a run folder, as typed or in `runs_dir`; the error names the nearest."""
    try:
        return find(text, runs_dir)
    except CheckpointError as error:
        finished = [str(file.parent) for file in Path(runs_dir).expanduser().glob("*/*/result.json")]
        remedy = names.nearest(text, finished) if finished else f"{runs_dir} contains no finished run"
        raise CheckpointError("no such run", where=text, remedy=remedy) from error


def _distinguish_names(variants: Sequence[VariantRuns]) -> list[VariantRuns]:
    """Add the differing settings to the names of variants with the same name."""
    renamed = []
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
        renamed.append(variant._replace(name=f"{variant.name} ({words})" if words else variant.name))
    return renamed


def diff(texts: Sequence[str], runs_dir: str) -> dict[str, Any]:
    """Return the settings and metrics in which two runs, or two configurations, differ.

    Raises:
        UsageError: a configuration does not exist.
        CheckpointError: a run does not exist.
    """
    first, second = (_read_side(text, runs_dir) for text in texts)
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


def _read_side(text: str, runs_dir: str) -> Side:
    """Read a run folder or, where none has that name, a configuration."""
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
        raise _without_settings(run)
    result = run.read_json("result.json") or {}
    if not result and (run.path / "result.json").exists():
        remedy = f"--train --resume {run.path} writes it again"
        raise CheckpointError("damaged result", where=run.path / "result.json", remedy=remedy)
    shown = (*computed_metrics(), "epochs", "seconds")
    return Side(text, config, {name: result[name] for name in shown if name in result})
