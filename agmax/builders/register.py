"""Register your own transforms, mixes, objectives, schedules, data sets and metrics, which then work by name like ours.

    import agmax

    @agmax.register.transform("stripes", about="erase every second row")
    @dataclass(frozen=True)
    class Stripes(agmax.augment.Transform): ...

in a file given to `--import`, or anywhere before a configuration is read. Register a backbone with timm
(`timm.models.register_model`); the names in timm's registry are model parts.
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
"""For each slot of a transform, the setting that fills it and the table of its words."""


def transform(word: str, *, about: str = "", softens: bool = False) -> Callable[[Class], Class]:
    """Register a transform: a frozen dataclass whose fields are the settings `augment.WORD.FIELD`.

    The word is also a part of a name. Its setting follows from the slot: augment.crop, augment.policy or augment.erase.
    With `softens` the visible fraction that it leaves softens the targets.

    Raises:
        ValueError: the slot is unknown, or a word or part of this name exists already.
    """

    def register(kind: Class) -> Class:
        slot = getattr(kind, "slot", "")
        if slot not in SLOTS:
            raise ValueError(f"slot ({kind.__name__}): {slot!r} is none of {', '.join(SLOTS)}")
        setting, table = SLOTS[slot]
        _register_word(setting, word, kind, about)
        table[word] = kind
        if softens:
            SOFTENS.add(word)
        return kind

    return register


def mix(word: str, *, about: str = "") -> Callable[[Class], Class]:
    """Register a mix of the images of a batch: a frozen dataclass whose fields are the settings `augment.WORD.FIELD`.

    Raises:
        ValueError: a word or part of this name exists already.
    """

    def register(kind: Class) -> Class:
        _register_word("mix", word, kind, about)
        mixing.MIXES[word] = kind
        return kind

    return register


def objective(name: str, row: Objective, *, about: str = "") -> Objective:
    """Register an objective, and a method part of the same name that trains with its smallest number of views.

    Each term has the setting `objective.TERM_weight`; its default is the weight in `row`.

    Raises:
        ValueError: an objective or a part of this name exists already.
    """
    _refuse(name, OBJECTIVES, "objective")
    registration.refuse_known_part(name)
    weights = {f"{name_of_term}_weight": term.weight for name_of_term, term in row.terms.items()}
    OBJECTIVES[name] = row
    registration.register_settings("objective", name, {key: (float, weight) for key, weight in weights.items()})
    settings = {"objective": {"name": name, "num_views": row.min_views, **weights}}
    registration.register_part("method", name, settings, about=about or f"the objective {name}")
    return row


def schedule(name: str) -> Callable[[Function], Function]:
    """Register a schedule: a function `(now: TrainingProgress, *, ...) -> factor of the base learning rate`.

    Its keyword arguments are the settings `schedule.KEYWORD`.

    Raises:
        ValueError: a schedule of this name exists already, or a keyword argument has no default.
    """

    def register(function: Function) -> Function:
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

    return register


def dataset(
    name: str,
    settings: dict[str, Any],
    *,
    about: str = "",
    augment: dict[str, Any] | None = None,
    of_files: bool = False,
) -> Callable[[Callable[[Path, bool], Dataset]], Callable[[Path, bool], Dataset]]:
    """Register a data set: a function `(root, is_training) -> InMemoryDataset or FileDataset`.

    `settings` are those of the section dataset: num_classes, channels, image_size, mean, std, ...; `augment` holds the
    settings of augmentation that suit the data, such as flip. `of_files` means that the function returns a FileDataset.

    Raises:
        ValueError: a data set or part of this name exists already.
    """

    def register(load: Callable[[Path, bool], Dataset]) -> Callable[[Path, bool], Dataset]:
        _refuse(name, datasets.DATASETS, "data set")
        parts = {"dataset": {"name": name, **settings}, "augment": augment or {}}
        registration.register_part("dataset", name, parts, about=about or f"the data set {name}")
        datasets.DATASETS[name] = load
        if of_files:
            datasets.OF_FILES.add(name)
        return load

    return register


def metric(
    name: str, *, unit: str = "", decimals: int = 4, higher_is_better: bool = False
) -> Callable[[Function], Function]:
    """Register a metric: a function of logits [N, K] and labels [N]; differences of unit % are printed in points.

    Raises:
        ValueError: a metric of this name exists already.
    """

    def register(function: Function) -> Function:
        _refuse(name, METRICS, "metric")
        METRICS[name] = Metric(function, unit, decimals, higher_is_better)
        return function

    return register


def _register_word(setting: str, word: str, kind: type, about: str) -> None:
    """Register the word of a slot with its settings, and the name part that selects it."""
    registration.refuse_known_part(word)  # first, so that a failure registers nothing
    registration.register_choice(setting, word, _fields(kind))
    registration.register_part("augment", word, {"augment": {setting: word}}, about=about or _first_line(kind))


def _fields(kind: type) -> registration.Settings:
    """Return the fields of a dataclass as settings.

    Raises:
        ValueError: a field has no default.
    """
    hints, settings = typing.get_type_hints(kind), registration.Settings()
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING:
            raise ValueError(f"{field.name} ({kind.__name__}): a setting needs a default")
        settings[field.name] = hints[field.name], field.default
    return settings


def _first_line(kind: type) -> str:
    return (inspect.getdoc(kind) or kind.__name__).splitlines()[0]


def _refuse(name: str, table: dict[str, Any], what: str) -> None:
    if name in table:
        raise ValueError(f"there is a {what} {name} already. Choose another name")
