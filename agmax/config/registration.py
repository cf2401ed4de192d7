"""Register words, name parts and settings of a user's program, so that they are read, checked and listed like ours."""

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
"""Type and default of each setting, by name."""


def refuse_known_part(part: str) -> None:
    """Refuse the name of an existing part or data set.

    Raises:
        ValueError: a part or data set of this name exists already.
    """
    if any(names.fragment(group, part) for group in ("dataset", "model", "augment", "method")):
        raise ValueError(f"there is a part {part} already. Choose another name")


def register_part(group: str, part: str, settings: dict[str, Any], *, about: str) -> None:
    """Register a name part or a data set; `settings` are nested by section, as in a file of configs/.

    Raises:
        ValueError: a part or data set of this name exists already.
    """
    refuse_known_part(part)
    document = Document({}, {}, f"registered {group} {part}")
    names.REGISTERED[group, part] = Fragment(group, part, about, document, settings, {})


def register_choice(slot: str, word: str, settings: Settings) -> None:
    """Register a word for a slot of augmentation; its settings stand in the block `augment.WORD`.

    Raises:
        ValueError: a word or a setting of this name exists already.
    """
    if any(word in words for words in CHOICES.values()) or word in AugmentConfig.model_fields:
        raise ValueError(f"there is a word {word} of augment already. Choose another name")
    block = _block(word, settings)
    _register("augment", word, {word: RegisteredSetting(TypeAdapter(block), {})})
    CHOICES[slot][word] = None
    resolve.SECTIONS.add(f"augment.{word}")
    resolve.KEYS.update(f"augment.{word}.{key}" for key in settings)


def register_settings(section: str, word: str, settings: Settings) -> None:
    """Register the settings of a word of `objective.name` or `schedule.name`; settings that exist are shared.

    Raises:
        ValueError: another word has registered a setting of this name.
    """
    existing = SECTIONS[section].model_fields
    new = {key: value for key, value in settings.items() if key not in existing}
    _register(section, word, {key: RegisteredSetting(_adapter(kind), default) for key, (kind, default) in new.items()})
    resolve.KEYS.update(f"{section}.{key}" for key in new)


def _register(section: str, word: str, settings: dict[str, RegisteredSetting]) -> None:
    registered = SECTIONS[section].registered
    owners = {key: other for other, keys in registered.items() for key in keys if other != word}
    for key in settings:
        if key in owners:
            raise ValueError(f"the setting {section}.{key} is registered by {owners[key]} already")
    registered[word] = settings


def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=None if hasattr(kind, "model_fields") else Section.model_config)


def _block(word: str, settings: Settings) -> type[Section]:
    """Return a section class for the settings; a list in a file is read as a tuple where the type says so."""
    fields: dict[str, Any] = {
        key: (Annotated[kind, Field(strict=False)] if getattr(kind, "__origin__", None) is tuple else kind, default)
        for key, (kind, default) in settings.items()
    }
    return create_model(f"Block_{word}", __base__=Section, **fields)
