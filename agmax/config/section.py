"""The base classes of configuration sections, and the ranges that several settings share."""

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
    """Refuse true in place of 1: Python treats them as equal."""
    if isinstance(value, bool):
        raise PydanticCustomError("no_boolean", "Input should be 1 or 3")
    return value


Fraction = Annotated[float, Field(ge=0, le=1)]
FractionOrCount = Annotated[float, Field(ge=0)]
"""A fraction of the images if below 1, else a number of images."""
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
    """Mark a setting whose value must be a key of a table; entries that are added to the table later count too."""

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
    """A setting that was registered by a user's program."""

    adapter: TypeAdapter[Any]
    default: Any


class ExtensibleSection(Section):
    """A section for whose words users can register more choices, each with its own settings."""

    model_config = ConfigDict(extra="allow")

    words: ClassVar[tuple[str, ...]]
    """The settings of this section whose value is a word, such as `name`."""
    registered: ClassVar[dict[str, dict[str, RegisteredSetting]]]
    """The registered settings, by word and by setting."""

    @model_validator(mode="before")
    @classmethod
    def _check_registered(cls, values: Any) -> Any:
        """Check the registered settings, and fill in the defaults of those that belong to a chosen word."""
        if not isinstance(values, dict):
            return values
        known = {key: setting for settings in cls.registered.values() for key, setting in settings.items()}
        values, section, problems = dict(values), cls.__name__.removesuffix("Config").lower(), []
        for word in [str(values.get(name)) for name in cls.words]:
            for key, setting in cls.registered.get(word, {}).items():
                values.setdefault(key, setting.default)
        for key in sorted(values.keys() - cls.model_fields.keys()):
            if key not in known:
                problems.append(f"{section}.{key}: there is no such setting")
                continue
            try:
                values[key] = known[key].adapter.validate_python(values[key])
            except ValidationError as failure:
                for error in failure.errors():
                    place = ".".join(map(str, (section, key, *error["loc"])))
                    problems.append(f"{place}: {error['msg'].replace('Input should be', 'it must be')}")
        if problems:
            raise ValueError("\n".join(problems))
        return values
