"""Parse configuration names such as `ResNet50-cutmix-agmax` into parts, each of which is a small YAML fragment."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from agmax.config import reader
from agmax.core.errors import ConfigErrors, UsageError

PACKAGE = Path(__file__).parent.parent
CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
"""The folder of the fragments: inside the installed package, or at the top of the repository."""

SLOTS = ("policy", "crop", "erase", "mix")
"""Order of the augment parts in a canonical name, by the slot that a part fills."""

TIMM_RECIPE = "ResNet50"
"""The model part whose recipe is used for timm models without a fragment."""


EXAMPLE_NUMBERS = {"depth": 28, "width": 10}
"""Values of `{depth}` and `{width}` in lists of parts."""


class Fragment(NamedTuple):
    """One part of a name: a YAML file of settings."""

    group: str  # dataset, model, augment or method
    part: str  # as written in the name
    about: str  # one line for lists
    document: reader.Document
    settings: dict[str, Any]  # nested
    additions: dict[str, Any]  # settings that are added if the name also has the method part, by that part

    @property
    def slot(self) -> str | None:
        """Return the slot of the pipeline that an augment part fills, None if it fills none."""
        return next((slot for slot in SLOTS if slot in self.settings.get("augment", {})), None)


class Name(NamedTuple):
    """A parsed configuration name."""

    canonical: str
    model: Fragment
    augment: list[Fragment]
    methods: list[Fragment]

    @property
    def parts(self) -> list[str]:
        return [fragment.part for fragment in (self.model, *self.augment, *self.methods)]


@lru_cache
def files(group: str) -> dict[str, Path]:
    """Return the fragment files of a group by part; `{depth}` in a file's name matches a number."""
    return {path.stem: path for path in sorted((CONFIGS / group).glob("*.yaml"))}


REGISTERED: dict[tuple[str, str], Fragment] = {}
"""The fragments of registered parts, by group and part."""


def known_parts(group: str) -> list[str]:
    """Return the parts of a group, as their files are named, and the registered ones."""
    return [*files(group), *(part for part_group, part in REGISTERED if part_group == group)]


def fragment(group: str, part: str) -> Fragment | None:
    """Return the fragment of a part, None if the group has no such part."""
    return REGISTERED.get((group, part)) or _read_fragment(group, part)


@lru_cache
def _read_fragment(group: str, part: str) -> Fragment | None:
    for stem, path in files(group).items():
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[0-9]+)", re.escape(stem))
        match = re.fullmatch(pattern, part)
        if match:
            document = reader.read_yaml(path)._replace(path=f"configs/{group}/{path.name}")
            settings = _fill(document.mapping, {key: int(value) for key, value in match.groupdict().items()})
            _check_shape(settings, document)
            about, additions = settings.pop("about", ""), settings.pop("with", {})
            return Fragment(group, part, about, document, settings, additions)
    return None


def dataset_fragment(name: str, where: str = "") -> Fragment:
    """Return the fragment of a data set; `where` is the file and line that names it.

    Raises:
        UsageError: there is no such data set; the message suggests the nearest name.
    """
    dataset = fragment("dataset", name)
    if dataset is None:
        what = f"unknown data set {name}" if where else "unknown data set"
        raise UsageError(what, where=where or name, remedy=nearest(name, known_parts("dataset")))
    return dataset


def parse(name: str, *, ask_timm: bool = True) -> Name:
    """Parse a configuration name; at each hyphen the longest known part wins.

    With `ask_timm` an unknown word is a model part if timm has a model of that name.

    Raises:
        UsageError: a part is unknown, there is no model part or more than one, or two parts fill the same slot.
    """
    fragments = _split(name, ask_timm)
    models = [item for item in fragments if item.group == "model"]
    if len(models) != 1:
        parts = " and ".join(f"'{item.part}'" for item in models) or "none"
        raise UsageError("a name needs one model part", where=name, why=f"it has {parts}", remedy="See --list parts")
    augment = [item for item in fragments if item.group == "augment"]
    methods = sorted((item for item in fragments if item.group == "method"), key=lambda item: item.part)
    for group in (augment, methods):
        _refuse_clash(group, name)
    augment.sort(key=lambda item: SLOTS.index(item.slot) if item.slot else -1)
    filled = [item for item in augment if item.slot]
    words = [item.part for item in filled] or ["standard"]
    canonical = "-".join([models[0].part, *words, *(item.part for item in methods)])
    return Name(canonical, models[0], augment, methods)


def examples(group: str) -> list[Fragment]:
    """Return every fragment of a group, a pattern as an example such as `WideResNet28-10`."""
    parts = [stem.format(**EXAMPLE_NUMBERS) for stem in known_parts(group)]
    return [example for part in parts if (example := fragment(group, part))]


def compositions() -> list[str]:
    """Return the canonical names of the published grid for every model part."""
    policies, mixes = ("", "-auto_augment"), ("", "-cutout", "-cutmix", "-mixup")
    augments = [(policy + mix) or "-standard" for policy in policies for mix in mixes]
    models = [*(item.part for item in examples("model")), "WideResNet40-2"]
    return [f"{model}{augment}{method}" for model in models for augment in augments for method in ("", "-agmax")]


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Suggest the known word that is most similar to `word`, or list all if the similarity is below `cutoff`."""
    known = sorted(known)
    close = get_close_matches(word, known, n=1, cutoff=cutoff) or get_close_matches(
        word.lower(), [item.lower() for item in known], n=1, cutoff=cutoff
    )
    if not close:
        return f"Known: {', '.join(known)}"
    return f"Did you mean '{next(item for item in known if item.lower() == close[0].lower())}'?"


def _split(name: str, ask_timm: bool) -> list[Fragment]:
    words = name.split("-")
    fragments: list[Fragment] = []
    start = 0
    while start < len(words):
        for end in range(len(words), start, -1):
            item = _part("-".join(words[start:end]))
            if item:
                break
        else:
            may_be_model = ask_timm and all(item.group != "model" for item in fragments)
            item, end = (_timm_part(words[start]) if may_be_model else None), start + 1
        if item is None:
            known = [stem for group in ("model", "augment", "method") for stem in known_parts(group)]
            raise UsageError(f"unknown part '{words[start]}'", where=name, remedy=nearest(words[start], known))
        if item not in fragments:
            fragments.append(item)
        start = end
    return fragments


def _part(word: str) -> Fragment | None:
    return fragment("model", word) or fragment("augment", word) or fragment("method", word)


def _timm_part(word: str) -> Fragment | None:
    """Return a model part for a timm model: the recipe of ResNet50 with timm's initial weights."""
    if not re.fullmatch(r"[A-Za-z0-9_.]+", word):
        return None
    import timm  # slow, and needed only here

    if not timm.is_model(word):
        return None
    recipe = fragment("model", TIMM_RECIPE)
    assert recipe is not None
    settings = {**recipe.settings, "model": {"backbone": word}}
    return Fragment("model", word, f"timm's {word} with the recipe of {TIMM_RECIPE}", recipe.document, settings, {})


def _check_shape(settings: dict[str, Any], document: reader.Document) -> None:
    """Refuse a fragment that has anything but sections, `about` and `with`."""
    errors: list[UsageError] = []
    additions = settings.get("with")
    sections = {f"with.{part}": value for part, value in additions.items()} if isinstance(additions, dict) else {}
    for key, value in (settings | sections).items():
        kind, why = (str, "it is one line of text") if key == "about" else (dict, "it is a section, not a value")
        if not isinstance(value, kind):
            errors.append(UsageError(f"wrong value for {key}", where=document.where(key), why=why))
    for key in sections:
        part = key.removeprefix("with.")
        if part not in files("method"):
            remedy = nearest(part, files("method"))
            errors.append(UsageError(f"unknown part {part}", where=document.where(key), remedy=remedy))
    if errors:
        raise ConfigErrors(errors)


def _refuse_clash(fragments: list[Fragment], name: str) -> None:
    setters: dict[str, tuple[str, Any]] = {}
    for item in fragments:
        for key, value in leaves(item.settings):
            other, other_value = setters.setdefault(key, (item.part, value))
            if other_value != value:
                raise UsageError(f"'{other}' and '{item.part}' both set {key}; keep one", where=name)


def leaves(mapping: dict[str, Any], prefix: str = "", *, keep_empty: bool = False) -> list[tuple[str, Any]]:
    """Return the (dotted key, value) pairs of a nested mapping; with `keep_empty` an empty mapping is a value."""
    pairs: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        if isinstance(value, dict) and (value or not keep_empty):
            pairs += leaves(value, f"{prefix}{key}.", keep_empty=keep_empty)
        else:
            pairs.append((prefix + key, value))
    return pairs


def _fill(value: Any, numbers: dict[str, int]) -> Any:
    """Replace the strings '{depth}' and '{width}' by the numbers in the name."""
    if isinstance(value, dict):
        return {key: _fill(inner, numbers) for key, inner in value.items()}
    if isinstance(value, str) and value.startswith("{") and value[1:-1] in numbers:
        return numbers[value[1:-1]]
    return value
