"""What the sections of a configuration are made of: their base and the ranges that settings share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema


def _no_boolean(value: Any) -> Any:
    """Refuse true where 1 is meant: to Python they are equal."""
    if isinstance(value, bool):
        raise PydanticCustomError("no_boolean", "Input should be 1 or 3")
    return value


Fraction = Annotated[float, Field(ge=0, le=1)]
FractionOrCount = Annotated[float, Field(ge=0)]
"""A share of the images where it is below 1, else their number."""
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Magnitude = Annotated[float, Field(ge=0, le=10)]
Numbers = Annotated[list[float], Field(min_length=1)]
Channels = Annotated[Literal[1, 3], BeforeValidator(_no_boolean)]
ModelArguments = dict[str, bool | int | float | str]


@dataclass(frozen=True)
class KeyOf:
    """Mark a word that must be a key of a table; what is entered there later is a choice too."""

    table: Mapping[str, object]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, word: str) -> str:
        if word not in self.table:
            *others, last = map(repr, self.table)
            raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
        return word


class Section(BaseModel):
    """A group of settings: unknown keys, wrong types, NaN and changes after reading are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class RegisteredSetting(NamedTuple):
    """A setting that was joined from outside."""

    adapter: TypeAdapter[Any]
    default: Any


class ExtensibleSection(Section):
    """A section whose words can be joined from outside, each with settings of its own."""

    model_config = ConfigDict(extra="allow")

    words: ClassVar[tuple[str, ...]]
    """The settings that hold a word."""
    joined: ClassVar[dict[str, dict[str, RegisteredSetting]]]
    """Word -> setting -> what it takes."""

    @model_validator(mode="before")
    @classmethod
    def _check_joined(cls, values: Any) -> Any:
        """Check the settings of joined words; those of the words that are chosen are there, by default."""
        if not isinstance(values, dict):
            return values
        known = {key: item for settings in cls.joined.values() for key, item in settings.items()}
        found, section, problems = dict(values), cls.__name__.lower(), []
        for word in (str(values.get(name)) for name in cls.words):
            for key, item in cls.joined.get(word, {}).items():
                found.setdefault(key, item.default)
        for key in sorted(found.keys() - cls.model_fields.keys()):
            if key not in known:
                problems.append(f"{section}.{key}: there is no such setting")
                continue
            try:
                found[key] = known[key].adapter.validate_python(found[key])
            except ValidationError as failure:
                for error in failure.errors():
                    place = ".".join(map(str, (section, key, *error["loc"])))
                    problems.append(f"{place}: {error['msg'].replace('Input should be', 'it must be')}")
        if problems:
            raise ValueError("\n".join(problems))
        return found
