"""Words, parts and settings that a program brings: they are then read, checked and listed as ours are."""

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, create_model

from agmax.config import names, resolve
from agmax.config.augmentation import CHOICES, AugmentConfig
from agmax.config.names import Fragment
from agmax.config.reader import Document
from agmax.config.schema import ObjectiveConfig, ScheduleConfig
from agmax.config.section import ExtensibleSection, RegisteredSetting, Section

SECTIONS: dict[str, type[ExtensibleSection]] = {
    "augment": AugmentConfig,
    "objective": ObjectiveConfig,
    "schedule": ScheduleConfig,
}

Settings = dict[str, tuple[Any, Any]]
"""Name -> type and default."""


def refuse_known_part(part: str) -> None:
    """Raise ValueError where there is a part of a name, or a data set, that is called so."""
    if any(names.fragment(group, part) for group in ("dataset", "model", "augment", "method")):
        raise ValueError(f"there is a part {part} already")


def register_part(group: str, part: str, settings: dict[str, Any], *, about: str) -> None:
    """Let a part of a name, or a data set, stand for settings, nested by section as in a file of configs/.

    Raises:
        ValueError: there is one of this name.
    """
    refuse_known_part(part)
    names.REGISTERED[group, part] = Fragment(
        group, part, about, Document({}, {}, f"joined {group} {part}"), settings, {}
    )


def register_choice(slot: str, word: str, settings: Settings) -> None:
    """Let a slot of augmentation be filled with a word, whose settings stand in the block `augment.WORD`.

    Raises:
        ValueError: there is such a word, or a setting of that name.
    """
    if any(word in words for words in CHOICES.values()) or word in AugmentConfig.model_fields:
        raise ValueError(f"there is a word {word} of augment already")
    block = _block(word, settings)
    _register("augment", word, {word: RegisteredSetting(TypeAdapter(block), {})})
    CHOICES[slot][word] = None
    resolve.SECTIONS.add(f"augment.{word}")
    resolve.KEYS.update(f"augment.{word}.{key}" for key in settings)


def register_settings(section: str, word: str, settings: Settings) -> None:
    """Let a word of `objective.name` or `schedule.name` have settings beside those of its section.

    Raises:
        ValueError: there is a setting of such a name with another meaning.
    """
    own = SECTIONS[section].model_fields
    new = {key: how for key, how in settings.items() if key not in own}
    _register(section, word, {key: RegisteredSetting(_adapter(kind), default) for key, (kind, default) in new.items()})
    resolve.KEYS.update(f"{section}.{key}" for key in new)


def _register(section: str, word: str, settings: dict[str, RegisteredSetting]) -> None:
    joined = SECTIONS[section].joined
    taken = {key: other for other, of_other in joined.items() for key in of_other if other != word}
    for key in settings:
        if key in taken:
            raise ValueError(f"the setting {section}.{key} is that of {taken[key]}")
    joined[word] = settings


def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=None if hasattr(kind, "model_fields") else Section.model_config)


def _block(word: str, settings: Settings) -> type[Section]:
    """Make a section of settings; what is a tuple in Python is a list in a file."""
    fields: dict[str, Any] = {
        key: (Annotated[kind, Field(strict=False)] if getattr(kind, "__origin__", None) is tuple else kind, default)
        for key, (kind, default) in settings.items()
    }
    return create_model(f"Block_{word}", __base__=Section, **fields)
