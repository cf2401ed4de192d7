"""The cells of a study: every training it is made of, each with a key that names its result for good."""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from agmax.config import names, resolve
from agmax.config.resolve import Resolved, Setting
from agmax.config.schema import Config
from agmax.experiments.start import NOT_THE_RESULT
from agmax.studies.spec import Study, Variant

WHERE_THE_DATA_ARE = ("dataset.root", "dataset.license", "dataset.source")


class Cell(NamedTuple):
    """One training of a study."""

    variant: str
    seed: int  # of the replicate
    trial: int | None  # of the tuning, which never reads the test images; None for a result
    resolved: Resolved
    key: str

    @property
    def config(self) -> Config:
        return self.resolved.config

    @property
    def title(self) -> str:
        """Name the cell in a line of text."""
        trial = "" if self.trial is None else f", trial {self.trial}"
        return f"{self.variant}{trial}, seed {self.seed}"


class Typed(NamedTuple):
    """What was typed beside the study: it holds for every cell."""

    dataset: str | None = None
    parts: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()


def key(config: Config) -> str:
    """Return 16 hexadecimal digits for all that decides a training's result: its settings and its seed.

    Only settings that differ from the schema's defaults are hashed, so that a setting added later, whose default is
    what was done before, leaves the keys of finished cells as they are.
    """
    ignored = (*NOT_THE_RESULT, *WHERE_THE_DATA_ARE)
    leaves = names.leaves(config.model_dump(mode="json", exclude_defaults=True))
    decisive = {name: value for name, value in sorted(leaves) if not name.startswith(ignored)}
    decisive["train.seed"] = config.train.seed
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def tuning(study: Study, typed: Typed) -> list[Cell]:
    """Return the cells of the tuning, seed by seed, so that all arms have come equally far at any time."""
    unread = Setting("evaluation.test", False, "the tuning, which never reads the test images")
    return [
        _cell(study, study.variants[name], seed, typed, settings=(*trial, unread), trial=number)
        for seed in study.tune_seeds
        for name, trials in study.trials.items()
        for number, trial in enumerate(trials)
    ]


def results(study: Study, typed: Typed, chosen: dict[str, Sequence[Setting]]) -> list[Cell]:
    """Return the cells that read the test images, seed by seed, each arm with the settings chosen for it."""
    seeds = sorted({seed for variant in study.variants.values() for seed in variant.seeds})
    return [
        _cell(
            study, variant, seed, typed, settings=chosen.get(variant.name, ()), beneath=chosen.get(variant.like or "")
        )
        for seed in seeds
        for variant in study.variants.values()
        if seed in variant.seeds
    ]


def _cell(
    study: Study,
    variant: Variant,
    seed: int,
    typed: Typed,
    *,
    settings: Sequence[Setting] = (),
    beneath: Sequence[Setting] | None = None,
    trial: int | None = None,
) -> Cell:
    """Lay a cell's settings: the study's, those of the arm it is like, its own, the seeds, what was typed."""
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
    return Cell(variant.name, seed, trial, resolved, key(resolved.config))
