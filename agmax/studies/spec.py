"""Read a study from its YAML file: variants, seeds, metrics, contrasts, checks and trials."""

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
"""Settings that the study sets for each run, and what to write instead."""


class Variant(NamedTuple):
    """One variant of a study, with its seeds and the file lines of its settings."""

    name: str
    about: str  # what it controls
    parts: tuple[str, ...]  # appended to the name of the base
    settings: tuple[Setting, ...]
    like: str | None  # the variant whose parts, settings and chosen trial are applied before its own
    seeds: tuple[int, ...]
    seed_offset: int  # added to every seed except that of the data subset
    paper: dict[str, float]  # published numbers, shown in the tables


class Study(NamedTuple):
    """A study file, validated."""

    name: str
    path: Path
    about: str
    base: str
    dataset: str | None
    settings: tuple[Setting, ...]  # of every run
    variants: dict[str, Variant]
    metrics: tuple[str, ...]  # the first is the headline
    budget: int | None  # samples seen by each variant at equal compute
    margin: float  # of equivalence, in units of the headline metric
    contrasts: tuple[ContrastSection, ...]
    checks: tuple[CheckSection, ...]
    tune_seeds: tuple[int, ...]
    trials: dict[str, tuple[tuple[Setting, ...], ...]]  # variant -> the settings of each trial
    unequal_trials: str  # why some variants have fewer trials

    @property
    def records_path(self) -> Path:
        """Return the path of the records of finished runs (JSON lines)."""
        return self.path.parent / "results" / f"{self.name}.jsonl"

    def choices_path(self, suffix: str = "") -> Path:
        """Return the path of the settings that the tuning chose; `suffix` distinguishes overridden studies."""
        return self.path.parent / "results" / f"{self.name}{suffix}.chosen.yaml"


def find_study(text: str) -> Path:
    """Return the path of a study file, given as a path or as a name in configs/study.

    Raises:
        UsageError: the file does not exist or cannot be read.
    """
    folder = names.CONFIGS / "study"
    is_name = not text.endswith((".yaml", ".yml")) and "/" not in text
    try:
        path = folder / f"{text}.yaml" if is_name else Path(text).expanduser()
        exists = path.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, no such home folder
        raise UsageError("cannot read the study", where=text[:60], why=str(error)[:200]) from error
    if not exists:
        shipped = [file.stem for file in sorted(folder.glob("*.yaml"))]
        is_in_this_folder = is_name and Path(f"{text}.yaml").is_file()
        remedy = f"Write ./{text}.yaml" if is_in_this_folder else names.nearest(path.stem, shipped)
        raise UsageError("no such study", where=text, remedy=remedy)
    return path


def read_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        UsageError: the file is not a valid study, or a variant cannot be trained; lists every error.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", path.stem):
        why = "a name consists of at most 100 letters, digits and . _ -"
        raise UsageError("wrong name of a study", where=path, why=why, remedy="Rename the file")
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
    """Return the contradictions in a study: unknown variants, unequal numbers of trials, shared seeds."""
    problems: list[AgmaxError] = []
    seeds = file.seeds

    def refuse(key: str, what: str, why: str = "", remedy: str = "") -> None:
        problems.append(UsageError(what, where=document.where(key), why=why, remedy=remedy))

    pairs = [("contrasts", contrast.of, name) for contrast in study.contrasts for name in contrast.against]
    pairs += [("checks", check.of, check.against) for check in study.checks]
    references = [(f"variants.{item.name}.like", item.like) for item in study.variants.values() if item.like]
    references += [(key, name) for key, first, second in pairs for name in (first, second)]
    references += [(f"tune.trials.{name}", name) for name in study.trials]
    for key, name in references:
        if name not in study.variants:
            refuse(key, f"unknown variant {name}", remedy=names.nearest(name, study.variants))
    for key, first, second in pairs:
        if first == second:
            refuse(key, f"{first} is compared with itself")
    for variant in study.variants.values():
        other = study.variants.get(variant.like or "")
        if other and (other.like or variant.name in study.trials):
            why = "a variant with `like` has no trials, and names a variant without `like`"
            refuse(f"variants.{variant.name}.like", f"variant {variant.name} cannot be like {other.name}", why)
    if len({len(listed) for listed in study.trials.values()}) > 1 and not study.unequal_trials:
        counts = ", ".join(f"{name} {len(listed)}" for name, listed in study.trials.items())
        why = f"a fair tuning has the same number for each: {counts}"
        remedy = "Add trials, or write the reason in tune.unequal"
        refuse("tune.trials", "variants have unequal numbers of trials", why, remedy)
    for contrast in study.contrasts:
        untuned = [name for name in contrast.against if name in study.variants and name not in study.trials]
        if len(contrast.against) > 1 and untuned:
            why = "the best of several comparators is chosen by the tuning"
            refuse("contrasts", f"no trials of {', '.join(untuned)}", why, "Name one variant, or add trials")
    for name, section in file.variants.items():
        if section.seeds and section.seeds > len(seeds):
            why = f"{section.seeds}, of {len(seeds)}"
            refuse(f"variants.{name}.seeds", f"variant {name} has more seeds than the study", why)
    for key, listed in (("seeds", seeds), ("tune.seeds", list(study.tune_seeds))):
        if len(set(listed)) < len(listed):
            refuse(key, "a seed is listed twice")
    shared = sorted(set(study.tune_seeds) & set(seeds))
    if shared:
        refuse("tune.seeds", f"seeds {shared} are seeds of the study too", "settings must be chosen on other seeds")
    return problems


def _wrong_settings(study: Study, document: Document) -> list[AgmaxError]:
    """Return the settings with which a variant or a trial cannot be trained; reads no data."""
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
    """Return the error with a line of the file: its own line or, where it has none, that of `key`."""
    if f"({document.path}:" in str(error):
        return error
    return UsageError(what, where=document.where(key), why=str(error))
