"""Lay defaults, fragments, files, flags and overrides over one another into one checked Config."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from agmax.config import names, reader
from agmax.config.schema import OPEN_KEYS, Config, choices, default, sections_and_keys
from agmax.core.errors import AgmaxError, ConfigErrors, UsageError, printable
from agmax.losses.objectives import OBJECTIVES, hidden_units

DEFAULT_DATASET = "cifar10"
SECTIONS, KEYS = sections_and_keys()
USUAL_OPTIMIZERS = ("sgd", "adamw", "adam", "rmsprop")


class Setting(NamedTuple):
    """One setting and where it came from."""

    key: str
    value: Any
    origin: str


class ConfigRequest(NamedTuple):
    """What is to be trained or evaluated, as somebody has typed it."""

    source: str | Config | None = None  # a configuration's name or path, or its checked settings
    dataset: str | None = None
    parts: tuple[str, ...] = ()  # added to the configuration as if they stood in its name
    settings: tuple[Setting, ...] = ()  # they win over everything, later ones over earlier
    resume: str | None = None  # a checkpoint, a run folder or a name; "" is the newest run of the configuration


class Resolved(NamedTuple):
    """A checked configuration, where each value came from, and what the user should be told."""

    config: Config
    origins: dict[str, str]
    notes: list[str]
    typed: frozenset[str]  # the keys that the user set: in a file, by a flag or an override


class _Stack(NamedTuple):
    """What a name or a file stands for, before the data set is known."""

    name: str
    layers: list[list[Setting]]
    parts: list[str]
    dataset: str | None  # the one that a file names
    notes: list[str]
    typed: frozenset[str] = frozenset()  # the keys of the user's own files


class LayeredConfig(NamedTuple):
    """Settings laid over one another that are not checked yet, so that more can be laid between them."""

    stack: _Stack
    dataset: str | None
    settings: tuple[Setting, ...]

    @property
    def typed(self) -> frozenset[str]:
        """Return the keys that the user set: in a file, by a flag or an override."""
        return self.stack.typed | {setting.key for setting in self.settings}

    @property
    def names_data(self) -> bool:
        """Tell whether the user named a data set, by a flag, an override or in a file."""
        return self.dataset is not None or "dataset.name" in self.typed

    def value(self, key: str) -> Any:
        """Return a setting as it stands, or its default; nothing has checked it."""
        chosen, _ = self._layers(())
        return chosen[key].value if key in chosen else default(key)

    def section(self, key: str) -> dict[str, Any]:
        """Return what stands in a section whose keys are the user's own."""
        chosen, _ = self._layers(())
        whole = dict(chosen[key].value) if key in chosen else {}
        return whole | {name[len(key) + 1 :]: one.value for name, one in chosen.items() if name.startswith(f"{key}.")}

    def resolve(self, more: Sequence[Setting] = ()) -> Resolved:
        """Check everything, with `more` laid just below what was typed on the command line.

        Raises:
            UsageError: settings are unknown or do not fit; all of them are reported together.
        """
        chosen, notes = self._layers(more)
        _derive(chosen)
        config = _validate(chosen)
        origins = {key: setting.origin for key, setting in chosen.items()}
        return Resolved(config, origins, [*notes, *config.remarks], self.typed | {setting.key for setting in more})

    def _layers(self, more: Sequence[Setting]) -> tuple[dict[str, Setting], list[str]]:
        """Lay the data set under, or over, what a name or a file stands for, and the settings on top."""
        stack, notes, settings = self.stack, list(self.stack.notes), (*more, *self.settings)
        named = [str(setting.value) for setting in settings if setting.key == "dataset.name"]
        name = [DEFAULT_DATASET, *filter(None, (stack.dataset, self.dataset)), *named][-1]
        fragment = names.dataset_fragment(stack.dataset or name)
        layers = [_layer(fragment.settings, fragment.document), *stack.layers]
        if name != fragment.part:
            other = names.dataset_fragment(name)
            layers = [_without_data(layer, fragment) for layer in layers]
            layers.append(_layer(other.settings, other.document))
            notes.append(f"the data set {name} replaces {fragment.part} of the file, with {other.document.path}")
        layers.append([Setting("name", stack.name, "the name of the configuration")])
        layers.append(list(settings))
        return {setting.key: setting for layer in layers for setting in layer}, notes


def layer_config(request: ConfigRequest) -> LayeredConfig:
    """Lay what was typed over the data set: a name's parts, or a file.

    Layers, later wins: defaults, data set, model, augment, method, the user's file, settings.

    Raises:
        UsageError: nothing was typed, or the name is unknown.
    """
    if isinstance(request.source, Config):
        return layer_over(request.source.model_dump(mode="json"), "the configuration", request)
    if request.source is None:
        or_run = ", or --resume RUN" if request.resume == "" else ""
        raise UsageError("no configuration", remedy=f"Give --config NAME{or_run}; see --list")
    return LayeredConfig(_with_parts(request.source, request.parts), request.dataset, request.settings)


def check_keys(request: ConfigRequest) -> None:
    """Find what is unknown in what was typed before anything is looked for, loaded or downloaded.

    Raises:
        UsageError: a name or a key is unknown; all of them are reported together.
    """
    settings = request.settings if request.source is None else layer_config(request)._layers(())[0].values()
    errors = [problem for setting in settings if (problem := _unknown_key(setting.key, setting.origin))]
    if errors:
        raise ConfigErrors(errors)


def layer_over(mapping: dict[str, Any], origin: str, request: ConfigRequest) -> LayeredConfig:
    """Lay what was typed over settings that are there already, such as a checkpoint carries."""
    layer = [Setting(key, value, origin) for key, value in names.leaves(mapping) if key != "name"]
    return LayeredConfig(
        _Stack(mapping["name"], [layer], [], mapping["dataset"]["name"], []), request.dataset, request.settings
    )


def resolve(
    source: str, *, dataset: str | None = None, parts: Sequence[str] = (), settings: Sequence[Setting] = ()
) -> Resolved:
    """Resolve a configuration name or file.

    `parts` are added to it as if they stood in its name, `settings` win over everything, later ones over earlier.

    Raises:
        UsageError: the name is unknown, or settings are; all of them are reported together.
    """
    return layer_config(ConfigRequest(source, dataset, tuple(parts), tuple(settings))).resolve()


def _without_data(layer: list[Setting], fragment: names.Fragment) -> list[Setting]:
    """Drop what a file says of a data set that is replaced, and the Q network's width that followed from it."""
    facts = dict(names.leaves(fragment.settings))
    units = hidden_units(facts["dataset.num_classes"] or 2)
    return [
        setting
        for setting in layer
        if setting.key not in facts and (setting.key, setting.value) != ("objective.hidden_units", units)
    ]


def with_classes(config: Config, num_classes: int) -> Config:
    """Return the configuration for a data set whose classes were counted."""
    mapping = config.model_dump()
    mapping["dataset"]["num_classes"] = num_classes
    if "joint_logits" in OBJECTIVES[config.objective.name].needs and not config.objective.hidden_units:
        mapping["objective"]["hidden_units"] = hidden_units(num_classes)
    return Config.model_validate(mapping)


def from_mapping(mapping: dict[str, Any], origin: str) -> Config:
    """Check a nested mapping of settings, such as a checkpoint holds."""
    return _validate({key: Setting(key, value, origin) for key, value in names.leaves(mapping)})


def as_yaml(resolved: Resolved) -> str:
    """Print a configuration as YAML, each value with where it came from."""
    lines: list[str] = []
    _print(resolved.config.model_dump(mode="json"), "", resolved.origins, lines)
    return "\n".join(lines) + "\n"


def differences(old: Config, new: Config, *, ignore: Sequence[str] = ()) -> list[str]:
    """Describe the settings that differ, one a line; `ignore` holds dotted keys or beginnings of them."""
    before, after = dict(names.leaves(old.model_dump())), dict(names.leaves(new.model_dump()))
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(tuple(ignore))
    ]


def _stack(source: str, seen: tuple[str, ...] = ()) -> _Stack:
    path = _path(source)
    if path is not None:
        return _file_stack(path, seen)
    parsed = names.parse(source)
    notes = [] if parsed.canonical == source else [f"{source} is written {parsed.canonical}"]
    return _Stack(parsed.canonical, _part_layers(parsed), parsed.parts, None, notes)


def is_path(source: str) -> bool:
    """Tell whether a configuration is given as a path, not as a name."""
    return source.endswith((".yaml", ".yml")) or "/" in source


def _path(source: str) -> Path | None:
    """Return the file that `source` names, or None where it is a name to take apart."""
    if "\0" in source or len(source) > 4096:
        raise UsageError("not a configuration name", where=source[:60], why="it is too long or holds a NUL")
    if is_path(source):
        try:
            path = Path(source).expanduser()
            is_there = path.is_file()
        except (OSError, RuntimeError) as error:  # a name too long, a folder not readable, no such home folder
            why = getattr(error, "strerror", None) or str(error)
            raise UsageError("cannot read the configuration", where=source, why=why) from error
        if not is_there:
            raise UsageError("no such configuration file", where=source, remedy="Names are listed by --list")
        return path
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", source):
        why = "a name is made of letters, digits and . _ -"
        raise UsageError("not a configuration name", where=source[:60], why=why, remedy="Names are listed by --list")
    path = names.CONFIGS / f"{source}.yaml"
    if path.is_file() and names.CONFIGS.resolve() not in path.resolve().parents:
        raise UsageError("configuration leads out of configs/", where=path, remedy="Give it as a path")
    return path if path.is_file() else None


def _file_stack(path: Path, seen: tuple[str, ...]) -> _Stack:
    document = reader.read_yaml(path)
    is_shipped = path.parent == names.CONFIGS
    if is_shipped:
        document = document._replace(path=f"configs/{path.name}")  # short, and the same wherever it is installed
    mapping = dict(document.mapping)
    base, name = mapping.pop("base", None), mapping.pop("name", None)
    for key, value in (("base", base), ("name", name)):
        if value is not None and not isinstance(value, str):
            raise UsageError("wrong value", where=document.where(key), why=f"{key} is {value!r}, not a name")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", name):
        raise UsageError(
            "not a configuration name", where=document.where("name"), why="letters, digits and . _ - make it"
        )
    layer = _layer(mapping, document)
    named = next((setting for setting in layer if setting.key == "dataset.name"), None)
    dataset = names.dataset_fragment(str(named.value), named.origin).part if named else None
    typed = frozenset[str]() if is_shipped else frozenset(setting.key for setting in layer)
    if base is None:
        if not any(setting.key == "model.backbone" for setting in layer):
            remedy = "Write `base: NAME` on top, or model.backbone and all else that differs from the defaults"
            raise UsageError("incomplete configuration", where=document.path, why="it names no model", remedy=remedy)
        return _Stack(name or _name_of(path), [layer], [], dataset, [], typed)
    if str(path.resolve()) in seen:
        raise UsageError("configurations that stand on each other", where=document.where("base"), why=" -> ".join(seen))
    if base.endswith((".yaml", ".yml")):
        base = str(path.parent / base)
    below = _stack(base, (*seen, str(path.resolve())))
    return below._replace(
        name=name or _as_word(path.stem),
        layers=[*below.layers, layer],
        dataset=dataset or below.dataset,
        notes=[],
        typed=below.typed | typed,
    )


def _name_of(path: Path) -> str:
    """Return the canonical name of a file whose name is made of parts, else the file's name."""
    try:
        return names.parse(path.stem, ask_timm=False).canonical
    except UsageError:
        return _as_word(path.stem)


def _as_word(text: str) -> str:
    """Make a name for run folders of the name of a file."""
    return re.sub(r"^\.|[^A-Za-z0-9._-]", "_", text)[:200]


def _part_layers(parsed: names.Name) -> list[list[Setting]]:
    """Return one layer a part, then what the model's fragment adds for the methods of this name."""
    fragments = [parsed.model, *parsed.augment, *parsed.methods]
    layers = [_layer(fragment.settings, fragment.document) for fragment in fragments]
    for method in parsed.methods:
        if method.part in parsed.model.additions:
            addition = parsed.model.additions[method.part]
            layers.append(_layer(addition, parsed.model.document, prefix=f"with.{method.part}."))
    return layers


def _with_parts(source: str, parts: Sequence[str]) -> _Stack:
    """Add parts given as flags: to a name as if they stood in it, to a file on top of it."""
    if _path(source) is None:
        present = names.parse(source).parts if parts else ()
        return _stack("-".join([source, *(part for part in parts if part not in present)]))
    stack = _stack(source)
    for part in parts:
        fragment = names.fragment("augment", part) or names.fragment("method", part)
        if fragment is None:
            why = "the file names its model"
            raise UsageError("a second model", where=part, why=why, remedy="Write model.backbone=NAME to replace it")
        stack.layers.append(_layer(fragment.settings, fragment.document))
    return stack


def _layer(mapping: dict[str, Any], document: reader.Document, prefix: str = "") -> list[Setting]:
    """Flatten one source of settings; empty sections say nothing."""
    settings: list[Setting] = []
    for key, value in names.leaves(mapping, keep_empty=True):
        is_empty_section = value in (None, {}) if key in SECTIONS else value == {} and f"{key}." in OPEN_KEYS
        if not is_empty_section:
            settings.append(Setting(key, value, document.where(prefix + key)))
    return settings


def _unknown_key(key: str, where: str) -> UsageError | None:
    if key in KEYS or key.startswith(OPEN_KEYS):
        return None
    if key in SECTIONS:
        why = f"it is a section, not a value: write {key}.<setting>"
        return UsageError(f"wrong value for {key}", where=where, why=why)
    above = next((known for known in KEYS if key.startswith(f"{known}.")), None)
    if above:
        return UsageError(f"unknown key {key}", where=where, why=f"{above} takes one value, not a section")
    last = key.rpartition(".")[2]
    same_word = [known for known in KEYS if known.rpartition(".")[2] == last]
    return UsageError(f"unknown key {key}", where=where, remedy=names.nearest(key, same_word or KEYS))


def _derive(chosen: dict[str, Setting]) -> None:
    """Follow the rules that span settings: pretrained weights are never drawn anew, the Q network fits the classes."""
    given = {key: setting.value for key, setting in chosen.items()}
    if given.get("model.pretrained") is True and given.get("model.initialization.scope") == "all":
        chosen["model.initialization.scope"] = Setting("model.initialization.scope", "q_network", "model.pretrained")
    num_classes = given.get("dataset.num_classes")
    objective = OBJECTIVES.get(str(given.get("objective.name")), OBJECTIVES["classification"])
    has_q_network = "joint_logits" in objective.needs
    if has_q_network and not given.get("objective.hidden_units") and type(num_classes) is int:
        key = "objective.hidden_units"
        chosen[key] = Setting(key, hidden_units(num_classes), "dataset.num_classes")


def _validate(chosen: dict[str, Setting]) -> Config:
    errors: list[AgmaxError] = []
    mapping: dict[str, Any] = {}
    for key, setting in chosen.items():
        problem = _unknown_key(key, setting.origin)
        if problem:
            errors.append(problem)
            continue
        *path, last = key.split(".")
        section: Any = mapping
        for word in path:
            section = section.setdefault(word, {}) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section[last] = setting.value
        else:
            why = f"{'.'.join(path)} holds one value"
            errors.append(UsageError(f"settings do not fit: {key}", where=setting.origin, why=why))
    try:
        config = Config.model_validate(mapping)
    except ValidationError as failure:
        explained = {str(error): error for item in failure.errors() for error in _explain(item, chosen)}
        raise ConfigErrors([*errors, *explained.values()]) from failure
    problem = _unknown_optimizer(config.optimizer.name, chosen)
    if errors or problem:
        raise ConfigErrors([*errors, *([problem] if problem else [])])
    return config


def _unknown_optimizer(name: str, chosen: dict[str, Setting]) -> UsageError | None:
    """Return what is wrong with the name of an optimizer; timm is asked for unusual ones alone."""
    if name in USUAL_OPTIMIZERS:
        return None
    from timm.optim import list_optimizers  # slow, and needed for these names alone

    known = [str(each) for each in list_optimizers()]
    if name in known:
        return None
    near = names.nearest(name, known)
    remedy = near if near.startswith("Did") else f"Usual ones are {', '.join(USUAL_OPTIMIZERS)}"
    where, why = chosen["optimizer.name"].origin, "timm has no such optimizer"
    return UsageError(f"wrong value optimizer.name={name!r}", where=where, why=why, remedy=remedy)


def _explain(item: Any, chosen: dict[str, Setting]) -> list[UsageError]:
    """Turn one of pydantic's errors into our messages: key, value, where it stands, what is allowed."""
    if item["type"] == "value_error":  # a rule that spans settings
        errors = []
        for text in str(item["ctx"]["error"]).splitlines():
            key, _, why = text.partition(": ")
            origin = chosen[key].origin if key in chosen else "default"
            errors.append(UsageError(f"settings do not fit: {key}", where=origin, why=why))
        return errors
    key = ".".join(str(word) for word in item["loc"])
    is_open = key.startswith(OPEN_KEYS)
    near = [
        setting
        for known in _shorten(key)
        for setting in chosen.values()
        if setting.key == known or (is_open and setting.key.startswith(f"{known}."))
    ]
    setting = near[0] if near else Setting(key, None, "nowhere")
    allowed = choices(setting.key) if setting.key in KEYS else ()
    why = f"one of {', '.join(allowed)}" if allowed else item["msg"].replace("Input should be", "it must be")
    if is_open:  # pydantic tells one error for every type that is allowed
        why = "it must be a number, a word, true or false"
    remedy = names.nearest(str(setting.value), allowed) if allowed else ""
    if allowed and remedy.startswith("Known"):
        remedy = ""
    value = repr(setting.value) if len(repr(setting.value)) <= 60 else repr(setting.value)[:57] + "..."
    return [UsageError(f"wrong value {setting.key}={value}", where=setting.origin, why=why, remedy=remedy)]


def _shorten(key: str) -> list[str]:
    """Return the key and what stands above it, nearest first: `a.b.0.int` gives a.b.0.int, a.b.0, a.b, a."""
    words = key.split(".")
    return [".".join(words[:end]) for end in range(len(words), 0, -1)]


def _print(mapping: dict[str, Any], prefix: str, origins: dict[str, str], lines: list[str]) -> None:
    indent = "  " * prefix.count(".")
    for key, value in mapping.items():
        dotted = prefix + key
        if isinstance(value, dict) and value:
            lines.append(f"{indent}{reader.format_value(key)}:")
            _print(value, f"{dotted}.", origins, lines)
        else:
            text = f"{reader.format_value(key)}: {reader.format_value(value)}"
            lines.append(f"{indent}{text}  # {printable(origins.get(dotted, 'default'))}")
