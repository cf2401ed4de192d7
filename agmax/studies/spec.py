"""Read a study: one YAML file that says what is compared with what, on which seeds, and by which numbers."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from agmax.config import names, reader, resolve
from agmax.config.reader import Document
from agmax.config.resolve import Setting
from agmax.core.errors import AgmaxError, ConfigErrors, UsageError
from agmax.studies import spec_file
from agmax.studies.spec_file import CheckSection, ContrastSection, StudyFile, VariantSection

SET_BY_THE_STUDY = {
    "name": "Leave it out",
    "train.seed": "Write seeds: [5, 6, 7] in the study",
    "evaluation.test": "Leave it out",
}
"""Settings that make a run what it is, and what to do instead of writing them."""


class Variant(NamedTuple):
    """One variant of a study."""

    name: str
    about: str  # what it controls
    parts: tuple[str, ...]  # added to the name of the base
    settings: tuple[Setting, ...]
    like: str | None  # the variant whose parts, settings and chosen trial lie beneath its own
    seeds: tuple[int, ...]
    seed_offset: int  # added to every seed but the subset's
    paper: dict[str, float]  # published numbers, to stand beside


class Study(NamedTuple):
    """What a study file says."""

    name: str
    path: Path
    about: str
    base: str
    dataset: str | None
    settings: tuple[Setting, ...]  # of every run
    variants: dict[str, Variant]
    metrics: tuple[str, ...]  # the first is the headline
    budget: int | None  # samples seen that a fair variant spends
    margin: float  # of equivalence, in units of the headline metric
    contrasts: tuple[ContrastSection, ...]
    checks: tuple[CheckSection, ...]
    tune_seeds: tuple[int, ...]
    trials: dict[str, tuple[tuple[Setting, ...], ...]]  # variant -> the settings of each trial
    unequal_trials: str  # why some variants have fewer

    @property
    def results(self) -> Path:
        """Return the file of finished runs, one line each."""
        return self.path.parent / "results" / f"{self.name}.jsonl"

    def chosen(self, typed: str = "") -> Path:
        """Return the file of the settings that the tuning has chosen; `typed` marks that of settings typed beside."""
        return self.path.parent / "results" / f"{self.name}{typed}.chosen.yaml"


def find_study(text: str) -> Path:
    """Return the file of a study: a path, or the name of one in configs/study.

    Raises:
        UsageError: there is none.
    """
    folder = names.CONFIGS / "study"
    is_name = not text.endswith((".yaml", ".yml")) and "/" not in text
    try:
        path = folder / f"{text}.yaml" if is_name else Path(text).expanduser()
        is_there = path.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, no such home folder
        raise UsageError("cannot read the study", where=text[:60], why=str(error)[:200]) from error
    if not is_there:
        known = [shipped.stem for shipped in sorted(folder.glob("*.yaml"))]
        is_near = is_name and Path(f"{text}.yaml").is_file()
        remedy = f"Write ./{text}.yaml" if is_near else names.nearest(path.stem, known)
        raise UsageError("no such study", where=text, remedy=remedy)
    return path


def read_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        UsageError: it is not one, or a variant of it cannot be trained; every error that was found is reported.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", path.stem):
        why = "letters, digits and . _ - make it, 100 at most"
        raise UsageError("not a name for a study", where=path, why=why, remedy="Rename the file")
    document = reader.read_yaml(path)
    file = spec_file.validate(document)
    tune = file.tune
    study = Study(
        name=path.stem,
        path=path,
        about=file.about,
        base=str(path.parent / file.base) if file.base.endswith((".yaml", ".yml")) else file.base,
        dataset=file.dataset,
        settings=_settings(file.settings, "settings", document),
        variants={name: _variant(name, variant, file.seeds, document) for name, variant in file.variants.items()},
        metrics=tuple(file.metrics),
        budget=file.budget,
        margin=file.margin,
        contrasts=tuple(file.contrasts),
        checks=tuple(file.checks),
        tune_seeds=tuple(tune.seeds) if tune else (),
        trials={
            name: tuple(_settings(trial, f"tune.trials.{name}", document) for trial in trials)
            for name, trials in (tune.trials if tune else {}).items()
        },
        unequal_trials=tune.unequal if tune else "",
    )
    problems = {
        str(problem): problem
        for problem in (*_inconsistencies(study, file, document), *_wrong_settings(study, document))
    }
    if problems:
        raise ConfigErrors(list(problems.values()))
    return study


def _variant(name: str, variant: VariantSection, seeds: list[int], document: Document) -> Variant:
    return Variant(
        name=name,
        about=variant.about,
        parts=tuple(part for part in variant.parts.split("-") if part),
        settings=_settings(variant.model_extra or {}, f"variants.{name}", document),
        like=variant.like,
        seeds=tuple(seeds[: variant.seeds]),
        seed_offset=variant.seed_offset,
        paper=dict(variant.paper),
    )


def _settings(mapping: dict[str, Any], prefix: str, document: Document) -> tuple[Setting, ...]:
    return tuple(Setting(key, value, document.where(f"{prefix}.{key}")) for key, value in names.leaves(mapping))


def _inconsistencies(study: Study, file: StudyFile, document: Document) -> list[AgmaxError]:
    """Return what does not fit together: variants that are not there, trials of different number, shared seeds."""
    problems: list[AgmaxError] = []
    seeds = file.seeds

    def refuse(key: str, what: str, why: str = "", remedy: str = "") -> None:
        problems.append(UsageError(what, where=document.where(key), why=why, remedy=remedy))

    pairs = [("contrasts", contrast.of, name) for contrast in study.contrasts for name in contrast.against]
    pairs += [("checks", check.of, check.against) for check in study.checks]
    named = [(f"variants.{variant.name}.like", variant.like) for variant in study.variants.values() if variant.like]
    named += [(key, name) for key, first, second in pairs for name in (first, second)]
    named += [(f"tune.trials.{name}", name) for name in study.trials]
    for key, name in named:
        if name not in study.variants:
            refuse(key, f"unknown variant {name}", remedy=names.nearest(name, study.variants))
    for key, first, second in pairs:
        if first == second:
            refuse(key, f"{first} is compared with itself")
    for variant in study.variants.values():
        other = study.variants.get(variant.like or "")
        if other and (other.like or variant.name in study.trials):
            why = "a variant like another has no trials of its own, and that other stands by itself"
            refuse(f"variants.{variant.name}.like", f"variant {variant.name} cannot be like {other.name}", why)
    if len({len(listed) for listed in study.trials.values()}) > 1 and not study.unequal_trials:
        counts = ", ".join(f"{name} {len(listed)}" for name, listed in study.trials.items())
        why, remedy = f"a fair tuning gives all equally many: {counts}", "Or say in tune.unequal why they are not"
        refuse("tune.trials", "variants with more trials than others", why, remedy)
    for contrast in study.contrasts:
        untuned = [name for name in contrast.against if name in study.variants and name not in study.trials]
        if len(contrast.against) > 1 and untuned:
            why = "the best of several is chosen on the validation of the tuning"
            refuse("contrasts", f"no trials of {', '.join(untuned)}", why, "Name one variant, or give them trials")
    for name, words in file.variants.items():
        if words.seeds and words.seeds > len(seeds):
            why = f"{words.seeds}, of {len(seeds)}"
            refuse(f"variants.{name}.seeds", f"variant {name} has more seeds than the study", why)
    for key, listed in (("seeds", seeds), ("tune.seeds", list(study.tune_seeds))):
        if len(set(listed)) < len(listed):
            refuse(key, "a seed stands twice")
    shared = sorted(set(study.tune_seeds) & set(seeds))
    if shared:
        refuse("tune.seeds", f"seeds {shared} are seeds of the study too", "they would be chosen on")
    return problems


def _wrong_settings(study: Study, document: Document) -> list[AgmaxError]:
    """Return what a variant or a trial could not be trained with; nothing is asked of the data."""
    problems: list[AgmaxError] = []
    try:
        resolve.resolve(study.base)
        if study.dataset is not None:
            names.dataset_fragment(study.dataset, document.where("dataset"))
    except UsageError as error:
        return [_with_line(item, "wrong base", "base", document) for item in _each(error)]
    known = [*names.known_parts("augment"), *names.known_parts("method")]
    for variant in study.variants.values():
        key = f"variants.{variant.name}"
        for part in variant.parts:
            if part not in known:
                is_model = names.fragment("model", part) is not None
                remedy = "The model is the study's base" if is_model else names.nearest(part, known)
                problems.append(UsageError(f"unknown part {part}", where=document.where(f"{key}.parts"), remedy=remedy))
        like = study.variants.get(variant.like or "")
        parts = dict.fromkeys(part for variant in (like, variant) if variant for part in variant.parts if part in known)
        for trial in study.trials.get(variant.name, ((),)):
            layers = (*study.settings, *(like.settings if like else ()), *variant.settings, *trial)
            problems += [
                UsageError(
                    f"{setting.key} is the study's to set", where=setting.origin, remedy=SET_BY_THE_STUDY[setting.key]
                )
                for setting in layers
                if setting.key in SET_BY_THE_STUDY
            ]
            try:
                resolve.resolve(study.base, dataset=study.dataset, parts=tuple(parts), settings=layers)
            except UsageError as error:
                problems += [_with_line(item, f"variant {variant.name}", key, document) for item in _each(error)]
    return problems


def _each(error: UsageError) -> Iterable[AgmaxError]:
    return error.errors if isinstance(error, ConfigErrors) else [error]


def _with_line(error: AgmaxError, what: str, key: str, document: Document) -> AgmaxError:
    """Return an error that names a line of the file: its own, or that of `key`."""
    if f"({document.path}:" in str(error):
        return error
    return UsageError(what, where=document.where(key), why=str(error))
