"""Validate a study file, and explain what is wrong with it."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from agmax.config import names
from agmax.config.reader import Document
from agmax.config.section import Count, KeyOf, Positive, Section, Seed
from agmax.core.errors import ConfigErrors, UsageError
from agmax.evaluation.metrics import METRICS

Metric = Annotated[str, KeyOf(METRICS)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=60)]


def _as_seeds(value: Any) -> Any:
    """Read a number n as the seeds 0 to n - 1."""
    if type(value) is int and value >= 1:
        return list(range(value))
    if not isinstance(value, list):
        raise PydanticCustomError("seeds", "it must be a number of seeds, or a list of seeds")
    return value


def _as_variant(value: Any) -> Any:
    """Read a string as the parts of a variant, and null as a variant without changes to the base."""
    if isinstance(value, str):
        return {"parts": value}
    if not isinstance(value, dict | None):
        raise PydanticCustomError("variant", "it must be parts of a configuration name, or a section of settings")
    return value or {}


Seeds = Annotated[list[Seed], Field(min_length=1), BeforeValidator(_as_seeds)]


class VariantSection(Section):
    """One variant in a study file; all other keys are settings."""

    model_config = ConfigDict(extra="allow")

    about: str = ""
    parts: str = ""
    like: Word | None = None
    seeds: Count | None = None
    seed_offset: Seed = 0
    paper: dict[Metric, float] = {}


class ContrastSection(Section):
    """Two variants to compare, declared before the results are known."""

    of: Word
    against: Annotated[list[Word], Field(min_length=1)]
    """The comparator; of several, the one with the best validation top1 in the tuning."""


class CheckSection(Section):
    """Two variants with a known result: a test of the study itself."""

    of: Word
    against: Word
    expect: Literal["no difference", "a difference", "no gain"]


class TuneSection(Section):
    """The trials from which each variant's settings are chosen, by mean top1 on the validation images."""

    seeds: Annotated[list[Seed], Field(min_length=1)]
    """Seeds of the trials; none is a seed of the study."""
    trials: Annotated[
        dict[Word, Annotated[list[dict[str, Any]], Field(min_length=2)]],
        Field(min_length=1),
    ]
    """Settings of each trial by variant, the same number for every variant."""
    unequal: str = ""
    """The reason for unequal numbers of trials; the report shows it."""


class StudyFile(Section):
    """The content of a study file."""

    about: str = ""
    base: str
    dataset: str | None = None
    settings: dict[str, Any] = {}
    variants: Annotated[dict[Word, Annotated[VariantSection, BeforeValidator(_as_variant)]], Field(min_length=1)]
    seeds: Seeds = [0]
    metrics: Annotated[list[Metric], Field(min_length=1)] = ["error", "nll", "ece"]
    budget: Count | None = None
    margin: Positive = 0.2
    contrasts: list[ContrastSection] = []
    checks: list[CheckSection] = []
    tune: TuneSection | None = None


SECTIONS: dict[str, type[Section]] = {"contrasts": ContrastSection, "checks": CheckSection, "tune": TuneSection}

EXPLANATIONS = {
    "dict_type": "it must be a section, `key: value`",
    "model_type": "it must be a section, `key: value`",
    "list_type": "it must be a list, `[first, second]`",
    "int_type": "it must be a whole number",
    "float_type": "it must be a number",
    "string_type": "it must be text",
    "string_pattern_mismatch": "a name consists of letters, digits and _ . -",
    "string_too_long": "a name has at most 60 characters",
}
"""Explanations of pydantic's error types for the author of the file."""


def validate(document: Document) -> StudyFile:
    """Return the content of a study file; keys without a value are ignored.

    Raises:
        UsageError: the file is not a valid study; lists every error.
    """
    try:
        return StudyFile.model_validate({key: value for key, value in document.mapping.items() if value is not None})
    except ValidationError as failure:
        raise ConfigErrors([_explain(item, document) for item in failure.errors()]) from failure


def _explain(item: Any, document: Document) -> UsageError:
    """Convert one of pydantic's errors to a UsageError with key, value, line and what is allowed."""
    path = [word for word in item["loc"] if word != "[key]"]
    where = document.where(".".join(map(str, path)))
    key, entry = ".".join(map(str, path)), ""
    for place, word in enumerate(path):
        if isinstance(word, int):
            key, entry = ".".join(map(str, path[place + 1 :])), f" in entry {word + 1} of {'.'.join(path[:place])}"
    if item["type"] == "missing":
        return UsageError(f"{key} is missing{entry}", where=where, remedy="See configs/study for examples")
    if item["type"] == "extra_forbidden":
        section = SECTIONS[path[0]] if len(path) > 1 else StudyFile
        remedy = names.nearest(str(path[-1]), section.model_fields)
        return UsageError(f"unknown key {key}{entry}", where=where, remedy=remedy)
    why, remedy = EXPLANATIONS.get(item["type"], item["msg"].replace("Input should be", "it must be")), ""
    if item["type"] == "too_short":
        why = f"it must have {item['ctx']['min_length']} or more entries"
    if item["type"] == "literal_error":
        close = names.nearest(str(item["input"]), re.findall("'([^']+)'", why))
        remedy = close if close.startswith("Did") else ""
    value = repr(item["input"]) if len(repr(item["input"])) <= 60 else repr(item["input"])[:57] + "..."
    is_of_key = item["loc"][-1] == "[key]"  # the key itself is wrong; it is the last word of the path
    what = f"wrong name {key}" if is_of_key else f"wrong value {key}={value}" if key else f"wrong value {value}"
    return UsageError(f"{what}{entry}", where=where, why=why, remedy=remedy)
