"""Plan the runs of a study, each with a key that identifies its result."""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from agmax.config import names, resolve
from agmax.config.resolve import Resolved, Setting
from agmax.config.schema import Config
from agmax.experiments.start import IRRELEVANT_SETTINGS
from agmax.studies.spec import Study, Variant

DATA_LOCATION = ("dataset.root", "dataset.license", "dataset.source")
"""Settings that do not change the result of a training."""


class PlannedRun(NamedTuple):
    """One training of a study: a variant with one seed."""

    variant: str
    seed: int  # without the variant's seed_offset
    trial: int | None  # number of the trial in the tuning; None for a run evaluated on the test images
    resolved: Resolved
    key: str

    @property
    def config(self) -> Config:
        return self.resolved.config

    @property
    def title(self) -> str:
        """Return the name of the run for messages."""
        trial = "" if self.trial is None else f", trial {self.trial}"
        return f"{self.variant}{trial}, seed {self.seed}"


class TypedSettings(NamedTuple):
    """Overrides from the command line; they apply to every run."""

    dataset: str | None = None
    parts: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()


def key(config: Config) -> str:
    """Return a hash (16 hexadecimal digits) of everything that determines a training's result: settings and seed.

    Only settings that differ from the schema's defaults are hashed. A setting added later, whose default keeps the
    earlier behavior, therefore does not change the keys of finished runs.
    """
    ignored = (*IRRELEVANT_SETTINGS, *DATA_LOCATION)
    leaves = names.leaves(config.model_dump(mode="json", exclude_defaults=True))
    decisive = {name: value for name, value in sorted(leaves) if not name.startswith(ignored)}
    decisive["train.seed"] = config.train.seed
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def tuning_runs(study: Study, typed: TypedSettings) -> list[PlannedRun]:
    """Return the runs of the tuning, seed by seed, so that all variants progress equally."""
    without_test = Setting("evaluation.test", False, "the tuning, which never reads the test images")
    return [
        _plan_run(study, study.variants[name], seed, typed, settings=(*trial, without_test), trial=number)
        for seed in study.tune_seeds
        for name, trials in study.trials.items()
        for number, trial in enumerate(trials)
    ]


def result_runs(study: Study, typed: TypedSettings, chosen: dict[str, Sequence[Setting]]) -> list[PlannedRun]:
    """Return the runs evaluated on the test images, seed by seed, each variant with its chosen settings."""
    seeds = sorted({seed for variant in study.variants.values() for seed in variant.seeds})
    return [
        _plan_run(
            study,
            variant,
            seed,
            typed,
            settings=chosen.get(variant.name, ()),
            like_settings=chosen.get(variant.like or ""),
        )
        for seed in seeds
        for variant in study.variants.values()
        if seed in variant.seeds
    ]


def _plan_run(
    study: Study,
    variant: Variant,
    seed: int,
    typed: TypedSettings,
    *,
    settings: Sequence[Setting] = (),
    like_settings: Sequence[Setting] | None = None,
    trial: int | None = None,
) -> PlannedRun:
    """Resolve a run's settings; in rising order: study, the variant in `like`, own, trial, seeds, command line."""
    like = study.variants.get(variant.like or "")
    parts = tuple(dict.fromkeys([*(like.parts if like else ()), *variant.parts, *typed.parts]))
    suffix = "" if trial is None else f"-trial{trial}"
    origin = f"{study.name}, {variant.name}"
    in_file = (*study.settings, *(like.settings if like else ()), *variant.settings)
    has_own_subset = any(setting.key == "dataset.seed" for setting in in_file)
    layers = [
        *study.settings,
        *(like.settings if like else ()),
        *(like_settings or ()),
        *variant.settings,
        *settings,
        Setting("train.seed", seed + variant.seed_offset, origin),
        *([Setting("dataset.seed", seed, origin)] if variant.seed_offset and not has_own_subset else []),
        *typed.settings,
        Setting("name", f"{study.name}-{variant.name}{suffix}", origin),
    ]
    dataset = typed.dataset or study.dataset
    resolved = resolve.resolve(study.base, dataset=dataset, parts=parts, settings=layers)
    return PlannedRun(variant.name, seed, trial, resolved, key(resolved.config))
