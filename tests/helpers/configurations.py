"""Configurations of a name, the errors they end with, and the shipped fragments."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from agmax.config import reader, resolve
from agmax.config.resolve import Setting
from agmax.config.schema import Config
from agmax.core.errors import UsageError
from helpers.places import REPOSITORY, golden

PUBLISHED = golden("named_configs.json")
FRAGMENTS = sorted(path for path in (REPOSITORY / "configs").glob("*/*.yaml") if path.parent.name != "study")
fuzz = settings(
    database=None,
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def resolved_of(source: str, *overrides: str, **options: Any) -> resolve.Resolved:
    """Resolve a name or file under overrides written as on the command line."""
    typed = [Setting(key, reader.parse_value(value), "test") for key, _, value in (o.partition("=") for o in overrides)]
    return resolve.resolve(str(source), settings=typed, **options)


def config_of(source: str, *overrides: str, **options: Any) -> Config:
    return resolved_of(source, *overrides, **options).config


def errors_of(source: str, *overrides: str, **options: Any) -> list[str]:
    """Return the lines of the error that resolving ends with."""
    with pytest.raises(UsageError) as caught:
        config_of(source, *overrides, **options)
    assert caught.value.exit_code == 2
    return caught.value.lines


def outcome(call: Callable[..., Any], *arguments: Any, **options: Any) -> list[str]:
    """Call and return the lines of our error with status 2, none where it went well; others go through."""
    try:
        call(*arguments, **options)
    except UsageError as error:
        return error.lines
    return []


def value_of(config: Config, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), config)


CONSTANTS = {  # crop, padding, flip, CutOut's size, MixUp's alpha, CutMix's probability
    "digits": ("standard", 4, False, 0.5, 1.0, 0.5),
    "fashion_mnist": ("standard", 2, True, 0.5, 1.0, 0.5),
    "cifar10": ("standard", 4, True, 0.5, 1.0, 0.5),
    "cifar100": ("standard", 4, True, 0.5, 1.0, 0.5),
    "svhn": ("standard", 4, False, 0.625, 1.0, 0.5),
    "svhn-core": ("standard", 4, False, 0.625, 1.0, 0.5),
    "imagenet": ("random_resized", None, True, 0.5, 0.2, 1.0),
    "imagenet-v2": ("random_resized", None, True, 0.5, 0.2, 1.0),
    "folder": ("random_resized", None, True, 0.5, 0.2, 1.0),
}
