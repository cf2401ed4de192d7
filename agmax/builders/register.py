"""Join transforms, mixes, objectives, schedules, data sets and metrics from outside; they then work by name like ours.

    import agmax

    @agmax.register.transform("stripes", about="erase every second row")
    @dataclass(frozen=True)
    class Stripes(agmax.augment.Transform): ...

in a file that `--import` names, or anywhere before a configuration is read. A backbone is joined to timm's registry
(`timm.models.register_model`), whose names are model parts.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from agmax.augment import mixing, transforms
from agmax.config import registration
from agmax.config.augmentation import SOFTENS
from agmax.data import datasets
from agmax.data.splits import Dataset
from agmax.evaluation.metrics import METRICS, Metric
from agmax.losses.objectives import OBJECTIVES, Objective
from agmax.optim.lr_schedules import SCHEDULES

Class = TypeVar("Class", bound=type)
Function = TypeVar("Function", bound=Callable[..., Any])

SLOTS: dict[str, tuple[str, dict[str, Any]]] = {
    "crop": ("crop", transforms.CROPS),
    "soft_crop": ("crop", transforms.CROPS),
    "policy": ("policy", transforms.POLICIES),
    "erase": ("erase", transforms.ERASERS),
}
"""The slot of a transform -> the setting that fills it, and the table of its words."""


def transform(word: str, *, about: str = "", softens: bool = False) -> Callable[[Class], Class]:
    """Join a transform: a frozen dataclass, whose fields are the settings `augment.WORD.FIELD`.

    Its slot says which setting the word, which is a part of a name too, fills: augment.crop, policy or erase.
    `softens` lets what it hides soften the targets.

    Raises:
        ValueError: its slot is none of these, or there is such a word or part.
    """

    def join(kind: Class) -> Class:
        slot = getattr(kind, "slot", "")
        if slot not in SLOTS:
            raise ValueError(f"slot ({kind.__name__}): {slot!r} is none of {', '.join(SLOTS)}")
        setting, table = SLOTS[slot]
        _join_word(setting, word, kind, about)
        table[word] = kind
        if softens:
            SOFTENS.add(word)
        return kind

    return join


def mix(word: str, *, about: str = "") -> Callable[[Class], Class]:
    """Join what mixes the images of a batch: a frozen dataclass, whose fields are the settings `augment.WORD.FIELD`.

    Raises:
        ValueError: there is such a word or part.
    """

    def join(kind: Class) -> Class:
        _join_word("mix", word, kind, about)
        mixing.MIXES[word] = kind
        return kind

    return join


def objective(name: str, row: Objective, *, about: str = "") -> Objective:
    """Join an objective, also as a method part that trains with as many views as it compares.

    Each of its terms has the setting `objective.TERM_weight`, the row's by default.

    Raises:
        ValueError: there is one of this name.
    """
    _refuse(name, OBJECTIVES, "objective")
    registration.refuse_known_part(name)
    weights = {f"{term}_weight": how.weight for term, how in row.terms.items()}
    OBJECTIVES[name] = row
    registration.register_settings("objective", name, {key: (float, weight) for key, weight in weights.items()})
    settings = {"objective": {"name": name, "num_views": row.min_views, **weights}}
    registration.register_part("method", name, settings, about=about or f"the objective {name}")
    return row


def schedule(name: str) -> Callable[[Function], Function]:
    """Join a schedule: `(now: Moment, *, ...) -> share of the base learning rate`; its keywords are `schedule.KEYWORD`.

    Raises:
        ValueError: there is one of this name, or a keyword has no default.
    """

    def join(function: Function) -> Function:
        _refuse(name, SCHEDULES, "schedule")
        hints, settings = typing.get_type_hints(function), registration.Settings()
        for key, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                if parameter.default is parameter.empty:
                    raise ValueError(f"{key} ({name}): a setting needs a default")
                settings[key] = hints[key], parameter.default
        registration.register_settings("schedule", name, settings)
        SCHEDULES[name] = function
        return function

    return join


def dataset(
    name: str,
    settings: dict[str, Any],
    *,
    about: str = "",
    augment: dict[str, Any] | None = None,
    of_files: bool = False,
) -> Callable[[Callable[[Path, bool], Dataset]], Callable[[Path, bool], Dataset]]:
    """Join a data set: a function of its folder and whether the training images are asked for, which returns a `Split`.

    `settings` are those of the section dataset: num_classes, channels, image_size, mean, std, ...; `augment` those of
    augmentation that suit the data, such as flip. `of_files` says that it returns `Files`, which are decoded as needed.

    Raises:
        ValueError: there is one of this name.
    """

    def join(load: Callable[[Path, bool], Dataset]) -> Callable[[Path, bool], Dataset]:
        _refuse(name, datasets.DATASETS, "data set")
        parts = {"dataset": {"name": name, **settings}, "augment": augment or {}}
        registration.register_part("dataset", name, parts, about=about or f"the data set {name}")
        datasets.DATASETS[name] = load
        if of_files:
            datasets.OF_FILES.add(name)
        return load

    return join


def metric(
    name: str, *, unit: str = "", decimals: int = 4, higher_is_better: bool = False
) -> Callable[[Function], Function]:
    """Join a metric: a function of logits [N, K] and labels [N]; `unit` % is written as points in differences.

    Raises:
        ValueError: there is one of this name.
    """

    def join(function: Function) -> Function:
        _refuse(name, METRICS, "metric")
        METRICS[name] = Metric(function, unit, decimals, higher_is_better)
        return function

    return join


def _join_word(setting: str, word: str, kind: type, about: str) -> None:
    """Join the word of a slot with its settings, and the part of a name that fills the slot with it."""
    registration.refuse_known_part(word)  # first, so that nothing is joined by half
    registration.register_choice(setting, word, _fields(kind))
    registration.register_part("augment", word, {"augment": {setting: word}}, about=about or _first_line(kind))


def _fields(kind: type) -> registration.Settings:
    """Return the settings of a dataclass: its fields, each of which needs a default.

    Raises:
        ValueError: one has none.
    """
    hints, settings = typing.get_type_hints(kind), registration.Settings()
    for each in dataclasses.fields(kind):
        if each.default is dataclasses.MISSING:
            raise ValueError(f"{each.name} ({kind.__name__}): a setting needs a default")
        settings[each.name] = hints[each.name], each.default
    return settings


def _first_line(kind: type) -> str:
    return (inspect.getdoc(kind) or kind.__name__).splitlines()[0]


def _refuse(name: str, table: dict[str, Any], what: str) -> None:
    if name in table:
        raise ValueError(f"there is a {what} {name} already")
