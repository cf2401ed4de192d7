"""Read a study: one YAML file that says what is compared with what, on which seeds, and by which numbers."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from agmax.config import names, reader
from agmax.config.reader import Document
from agmax.config.resolve import Setting
from agmax.config.section import Count, NonNegative, Section, Seed
from agmax.errors import AgmaxError, ConfigErrors, UsageError

METRICS = ("error", "top1", "top5", "nll", "ece")
"""What a table can show; error is 100 - top1, top1 and top5 are in percent, nll in nats, ece is a share."""

Metric = Literal["error", "top1", "top5", "nll", "ece"]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$", max_length=60)]


class Contrast(Section):
    """Two arms to compare, fixed before the results are known."""

    of: Word
    against: list[Word]
    """The comparator, or several of which the one with the best validation in the tuning is taken."""


class Check(Section):
    """Two arms of which it is known beforehand how they compare: they test the study itself."""

    of: Word
    against: Word
    expect: Literal["no difference", "a difference", "no gain"]


class Tune(Section):
    """How each arm's settings are chosen: by the mean top1 on the validation images."""

    replicates: Annotated[list[Seed], Field(min_length=1)]
    """Seeds of the trials, none of them a replicate of the study."""
    trials: dict[Word, Annotated[list[dict[str, Any]], Field(min_length=2)]]
    """For each arm the settings of its trials, equally many for all."""


class _File(Section):
    about: str = ""
    base: str
    dataset: str | None = None
    settings: dict[str, Any] = {}
    variants: Annotated[dict[Word, str | dict[str, Any] | None], Field(min_length=1)]
    replicates: Count | Annotated[list[Seed], Field(min_length=1)] = 1
    metrics: Annotated[list[Metric], Field(min_length=1)] = ["error", "nll", "ece"]
    budget: Count | None = None
    margin: NonNegative = 0.2
    contrasts: list[Contrast] = []
    checks: list[Check] = []
    tune: Tune | None = None


class _Arm(Section):
    """The words of a variant that are not settings."""

    about: str = ""
    parts: str = ""
    like: Word | None = None
    replicates: Count | None = None
    seed_offset: Seed = 0
    paper: dict[Metric, float] = {}


class Variant(NamedTuple):
    """One arm of a study."""

    name: str
    about: str  # what it controls
    parts: tuple[str, ...]  # added to the name of the base
    settings: tuple[Setting, ...]
    like: str | None  # the arm whose parts, settings and chosen trial lie beneath its own
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
    settings: tuple[Setting, ...]  # of every cell
    variants: dict[str, Variant]
    metrics: tuple[str, ...]  # the first is the headline
    budget: int | None  # image passes that a fair arm spends
    margin: float  # of equivalence, in units of the headline metric
    contrasts: tuple[Contrast, ...]
    checks: tuple[Check, ...]
    tune_seeds: tuple[int, ...]
    trials: dict[str, tuple[tuple[Setting, ...], ...]]  # arm -> the settings of each trial

    @property
    def results(self) -> Path:
        """Return the file of finished cells, one line each."""
        return self.path.parent / "results" / f"{self.name}.jsonl"

    def chosen(self, typed: str = "") -> Path:
        """Return the file of the settings that the tuning has chosen; `typed` marks that of settings typed beside."""
        return self.path.parent / "results" / f"{self.name}{typed}.chosen.yaml"


def find(text: str) -> Path:
    """Return the file of a study: a path, or the name of one in configs/study.

    Raises:
        UsageError: there is none.
    """
    folder = names.CONFIGS / "study"
    path = Path(text).expanduser()
    if not text.endswith((".yaml", ".yml")) and "/" not in text:
        path = folder / f"{text}.yaml"
    if not path.is_file():
        known = [shipped.stem for shipped in sorted(folder.glob("*.yaml"))]
        raise UsageError("no such study", where=text, remedy=names.nearest(path.stem, known))
    return path


def read(path: Path) -> Study:
    """Read a study file.

    Raises:
        UsageError: it is not one; every error that was found is reported.
    """
    document = reader.read(path)
    try:
        file = _File.model_validate(document.mapping)
    except ValidationError as failure:
        raise ConfigErrors([_explained(item, document) for item in failure.errors()]) from failure
    seeds = tuple(range(file.replicates)) if isinstance(file.replicates, int) else tuple(file.replicates)
    variants = {name: _variant(name, value, seeds, document) for name, value in file.variants.items()}
    base = str(path.parent / file.base) if file.base.endswith((".yaml", ".yml")) else file.base
    tune = file.tune
    trials = {
        name: tuple(
            tuple(Setting(key, value, document.where(f"tune.trials.{name}")) for key, value in names.leaves(trial))
            for trial in listed
        )
        for name, listed in (tune.trials if tune else {}).items()
    }
    study = Study(
        name=path.stem,
        path=path,
        about=file.about,
        base=base,
        dataset=file.dataset,
        settings=_settings(file.settings, "settings", document),
        variants=variants,
        metrics=tuple(file.metrics),
        budget=file.budget,
        margin=file.margin,
        contrasts=tuple(file.contrasts),
        checks=tuple(file.checks),
        tune_seeds=tuple(tune.replicates) if tune else (),
        trials=trials,
    )
    problems = _problems(study, seeds, document)
    if problems:
        raise ConfigErrors(problems)
    return study


def _variant(name: str, value: Any, seeds: tuple[int, ...], document: Document) -> Variant:
    key = f"variants.{name}"
    mapping = {"parts": value} if isinstance(value, str) else dict(value or {})
    words = {word: mapping.pop(word) for word in list(mapping) if word in _Arm.model_fields}
    try:
        arm = _Arm.model_validate(words)
    except ValidationError as failure:
        raise ConfigErrors([_explained(item, document, f"{key}.") for item in failure.errors()]) from failure
    return Variant(
        name=name,
        about=arm.about,
        parts=tuple(part for part in arm.parts.split("-") if part),
        settings=_settings(mapping, key, document),
        like=arm.like,
        seeds=seeds[: arm.replicates],
        seed_offset=arm.seed_offset,
        paper={str(metric): number for metric, number in arm.paper.items()},
    )


def _settings(mapping: dict[str, Any], prefix: str, document: Document) -> tuple[Setting, ...]:
    return tuple(Setting(key, value, document.where(f"{prefix}.{key}")) for key, value in names.leaves(mapping))


def _problems(study: Study, seeds: tuple[int, ...], document: Document) -> list[AgmaxError]:
    """Return what does not fit together: arms that are not there, trials of different number, shared seeds."""
    problems: list[AgmaxError] = []

    def refuse(key: str, what: str, why: str = "", remedy: str = "") -> None:
        problems.append(UsageError(what, where=document.where(key), why=why, remedy=remedy))

    named = [("variants." + arm.name, arm.like) for arm in study.variants.values() if arm.like]
    named += [("contrasts", arm) for contrast in study.contrasts for arm in (contrast.of, *contrast.against)]
    named += [("checks", arm) for check in study.checks for arm in (check.of, check.against)]
    named += [("tune.trials", arm) for arm in study.trials]
    for key, arm in named:
        if arm not in study.variants:
            refuse(key, f"unknown variant {arm}", remedy=names.nearest(arm, study.variants))
    for variant in study.variants.values():
        other = study.variants.get(variant.like or "")
        if other and (other.like or variant.name in study.trials):
            why = "an arm like another has no trials of its own, and that other stands by itself"
            refuse(f"variants.{variant.name}", f"variant {variant.name} cannot be like {other.name}", why)
    if len({len(listed) for listed in study.trials.values()}) > 1:
        counts = ", ".join(f"{arm} {len(listed)}" for arm, listed in study.trials.items())
        refuse("tune.trials", "arms with more trials than others", f"a fair tuning gives all equally many: {counts}")
    for contrast in study.contrasts:
        untuned = [arm for arm in contrast.against if arm not in study.trials]
        if len(contrast.against) > 1 and untuned:
            why = "the best of several is chosen on the validation of the tuning"
            refuse("contrasts", f"no trials of {', '.join(untuned)}", why, "Name one arm, or give them trials")
    if len(set(seeds)) < len(seeds):
        refuse("replicates", "a seed stands twice")
    shared = sorted(set(study.tune_seeds) & set(seeds))
    if shared:
        refuse("tune.replicates", f"seeds {shared} are replicates of the study too", "they would be chosen on")
    return problems


def _explained(item: Any, document: Document, prefix: str = "") -> UsageError:
    """Turn one of pydantic's errors into ours: key, line, what is allowed."""
    path = [str(word) for word in item["loc"] if str(word) in document.mapping or not str(word).startswith("function")]
    key = prefix + ".".join(path)
    where = document.where(key)
    if item["type"] == "extra_forbidden":
        known = [*_File.model_fields, *Contrast.model_fields, *Check.model_fields, *Tune.model_fields]
        return UsageError(f"unknown key {key}", where=where, remedy=names.nearest(path[-1], known))
    if item["type"] == "missing":
        return UsageError(f"{key} is missing", where=where, remedy="See configs/study for examples")
    return UsageError(f"wrong value for {key}", where=where, why=item["msg"])
