"""The runs of a study: every training it is made of, each with a key that names its result for good."""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from agmax.config import names, resolve
from agmax.config.resolve import Resolved, Setting
from agmax.config.schema import Config
from agmax.experiments.start import IRRELEVANT_SETTINGS
from agmax.studies.spec import Study, Variant

WHERE_THE_DATA_ARE = ("dataset.root", "dataset.license", "dataset.source")


class PlannedRun(NamedTuple):
    """One training of a study."""

    variant: str
    seed: int  # of the seed
    trial: int | None  # of the tuning, which never reads the test images; None for a result
    resolved: Resolved
    key: str

    @property
    def config(self) -> Config:
        return self.resolved.config

    @property
    def title(self) -> str:
        """Name the run in a line of text."""
        trial = "" if self.trial is None else f", trial {self.trial}"
        return f"{self.variant}{trial}, seed {self.seed}"


class TypedSettings(NamedTuple):
    """What was typed beside the study: it holds for every run."""

    dataset: str | None = None
    parts: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()


def key(config: Config) -> str:
    """Return 16 hexadecimal digits for all that decides a training's result: its settings and its seed.

    Only settings that differ from the schema's defaults are hashed, so that a setting added later, whose default is
    what was done before, leaves the keys of finished runs as they are.
    """
    ignored = (*IRRELEVANT_SETTINGS, *WHERE_THE_DATA_ARE)
    leaves = names.leaves(config.model_dump(mode="json", exclude_defaults=True))
    decisive = {name: value for name, value in sorted(leaves) if not name.startswith(ignored)}
    decisive["train.seed"] = config.train.seed
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def tuning(study: Study, typed: TypedSettings) -> list[PlannedRun]:
    """Return the runs of the tuning, seed by seed, so that all variants have come equally far at any time."""
    unread = Setting("evaluation.test", False, "the tuning, which never reads the test images")
    return [
        _planned(study, study.variants[name], seed, typed, settings=(*trial, unread), trial=number)
        for seed in study.tune_seeds
        for name, trials in study.trials.items()
        for number, trial in enumerate(trials)
    ]


def results(study: Study, typed: TypedSettings, chosen: dict[str, Sequence[Setting]]) -> list[PlannedRun]:
    """Return the runs that read the test images, seed by seed, each variant with the settings chosen for it."""
    seeds = sorted({seed for variant in study.variants.values() for seed in variant.seeds})
    return [
        _planned(
            study, variant, seed, typed, settings=chosen.get(variant.name, ()), beneath=chosen.get(variant.like or "")
        )
        for seed in seeds
        for variant in study.variants.values()
        if seed in variant.seeds
    ]


def _planned(
    study: Study,
    variant: Variant,
    seed: int,
    typed: TypedSettings,
    *,
    settings: Sequence[Setting] = (),
    beneath: Sequence[Setting] | None = None,
    trial: int | None = None,
) -> PlannedRun:
    """Lay a run's settings: the study's, those of the variant it is like, its own, the seeds, what was typed."""
    like = study.variants.get(variant.like or "")
    parts = tuple(dict.fromkeys([*(like.parts if like else ()), *variant.parts, *typed.parts]))
    number = "" if trial is None else f"-trial{trial}"
    origin = f"{study.name}, {variant.name}"
    written = (*study.settings, *(like.settings if like else ()), *variant.settings)
    has_own_subset = any(setting.key == "dataset.seed" for setting in written)
    layers = [
        *study.settings,
        *(like.settings if like else ()),
        *(beneath or ()),
        *variant.settings,
        *settings,
        Setting("train.seed", seed + variant.seed_offset, origin),
        *([Setting("dataset.seed", seed, origin)] if variant.seed_offset and not has_own_subset else []),
        *typed.settings,
        Setting("name", f"{study.name}-{variant.name}{number}", origin),
    ]
    dataset = typed.dataset or study.dataset
    resolved = resolve.resolve(study.base, dataset=dataset, parts=parts, settings=layers)
    return PlannedRun(variant.name, seed, trial, resolved, key(resolved.config))
