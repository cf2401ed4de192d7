"""Merge defaults, fragments, files, flags and overrides into one validated Config; later layers win."""

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
    """A configuration as the user typed it."""

    source: str | Config | None = None  # the name or path of a configuration, or a validated one
    dataset: str | None = None
    parts: tuple[str, ...] = ()  # added to the name
    settings: tuple[Setting, ...] = ()  # win over everything, later ones over earlier ones
    resume: str | None = None  # a checkpoint, run folder or name; "": the newest run; "auto": that or a new one


class Resolved(NamedTuple):
    """A validated configuration, the origin of each value, and notes for the user."""

    config: Config
    origins: dict[str, str]
    notes: list[str]
    typed: frozenset[str]  # keys that the user set in a file, by a flag or by an override


class _Stack(NamedTuple):
    """The layers of a name or a file, without those of the data set."""

    name: str
    layers: list[list[Setting]]
    parts: list[str]
    dataset: str | None  # the data set that a file names
    notes: list[str]
    typed: frozenset[str] = frozenset()  # keys in the user's own files


class LayeredConfig(NamedTuple):
    """The layers of a configuration before validation; a layer can still be inserted below the typed settings."""

    stack: _Stack
    dataset: str | None
    settings: tuple[Setting, ...]

    @property
    def typed(self) -> frozenset[str]:
        """Return the keys that the user set in a file, by a flag or by an override."""
        return self.stack.typed | {setting.key for setting in self.settings}

    @property
    def names_data(self) -> bool:
        """Return whether the user named a data set, in a file, by a flag or by an override."""
        return self.dataset is not None or "dataset.name" in self.typed

    def value(self, key: str) -> Any:
        """Return the unvalidated value of a setting, or its default."""
        merged, _ = self._merge(())
        return merged[key].value if key in merged else default(key)

    def section(self, key: str) -> dict[str, Any]:
        """Return the unvalidated content of a section with free keys."""
        merged, _ = self._merge(())
        section = dict(merged[key].value) if key in merged else {}
        prefix = f"{key}."
        return section | {
            name.removeprefix(prefix): setting.value for name, setting in merged.items() if name.startswith(prefix)
        }

    def resolve(self, more: Sequence[Setting] = ()) -> Resolved:
        """Merge and validate all layers, with `more` just below the settings typed on the command line.

        Raises:
            UsageError: settings are unknown or do not fit together; all of them are reported.
        """
        merged, notes = self._merge(more)
        _derive(merged)
        config = _validate(merged)
        origins = {key: setting.origin for key, setting in merged.items()}
        return Resolved(config, origins, [*notes, *config.remarks], self.typed | {setting.key for setting in more})

    def _merge(self, more: Sequence[Setting]) -> tuple[dict[str, Setting], list[str]]:
        """Merge the layers of the data set, of the name or file, and of the settings; return also the notes.

        The data set comes first, unless it replaces the one of a complete file.
        """
        stack, notes, settings = self.stack, list(self.stack.notes), (*more, *self.settings)
        overrides = [str(setting.value) for setting in settings if setting.key == "dataset.name"]
        name = [DEFAULT_DATASET, *filter(None, (stack.dataset, self.dataset)), *overrides][-1]
        fragment = names.dataset_fragment(stack.dataset or name)
        layers = [_layer(fragment.settings, fragment.document), *stack.layers]
        if name != fragment.part:
            other = names.dataset_fragment(name)
            layers = [_without_data(layer, fragment) for layer in layers]
            layers.append(_layer(other.settings, other.document))
            notes.append(f"the data set {name} replaces {fragment.part} of the file; see {other.document.path}")
        layers.append([Setting("name", stack.name, "the name of the configuration")])
        layers.append(list(settings))
        return {setting.key: setting for layer in layers for setting in layer}, notes


def layer_config(request: ConfigRequest) -> LayeredConfig:
    """Return the layers of a request: defaults, data set, model, augment, method, the user's file, settings.

    Raises:
        UsageError: there is no configuration, or its name is unknown.
    """
    if isinstance(request.source, Config):
        return layer_over(request.source.model_dump(mode="json"), "the configuration", request)
    if request.source is None:
        or_run = ", or --resume RUN" if request.resume == "" else ""
        raise UsageError("no configuration", remedy=f"Give --config NAME{or_run}; see --list")
    return LayeredConfig(_with_parts(request.source, request.parts), request.dataset, request.settings)


def check_keys(request: ConfigRequest) -> None:
    """Check the typed names and keys, before any checkpoint or data is loaded or downloaded.

    Raises:
        UsageError: names or keys are unknown; all of them are reported.
    """
    settings = request.settings if request.source is None else layer_config(request)._merge(())[0].values()
    errors = [problem for setting in settings if (problem := _unknown_key(setting.key, setting.origin))]
    if errors:
        raise ConfigErrors(errors)


def layer_over(mapping: dict[str, Any], origin: str, request: ConfigRequest) -> LayeredConfig:
    """Return the layers of a request on top of existing settings, such as those of a checkpoint."""
    layer = [Setting(key, value, origin) for key, value in names.leaves(mapping) if key != "name"]
    return LayeredConfig(
        _Stack(mapping["name"], [layer], [], mapping["dataset"]["name"], []), request.dataset, request.settings
    )


def resolve(
    source: str, *, dataset: str | None = None, parts: Sequence[str] = (), settings: Sequence[Setting] = ()
) -> Resolved:
    """Resolve the name or file of a configuration.

    `parts` are added to the name. `settings` win over everything, later ones over earlier ones.

    Raises:
        UsageError: the name or settings are unknown; all of them are reported.
    """
    return layer_config(ConfigRequest(source, dataset, tuple(parts), tuple(settings))).resolve()


def _without_data(layer: list[Setting], fragment: names.Fragment) -> list[Setting]:
    """Drop a file's settings of the replaced data set, and the width of the Q network that followed from it."""
    facts = dict(names.leaves(fragment.settings))
    units = hidden_units(facts["dataset.num_classes"] or 2)
    return [
        setting
        for setting in layer
        if setting.key not in facts and (setting.key, setting.value) != ("objective.hidden_units", units)
    ]


def with_classes(config: Config, num_classes: int) -> Config:
    """Return the configuration with this number of classes, and the Q network's width that follows from it."""
    mapping = config.model_dump()
    mapping["dataset"]["num_classes"] = num_classes
    if "joint_logits" in OBJECTIVES[config.objective.name].needs and not config.objective.hidden_units:
        mapping["objective"]["hidden_units"] = hidden_units(num_classes)
    return Config.model_validate(mapping)


def from_mapping(mapping: dict[str, Any], origin: str) -> Config:
    """Validate a nested mapping of settings, such as that of a checkpoint; `origin` names it in messages."""
    return _validate({key: Setting(key, value, origin) for key, value in names.leaves(mapping)})


def as_yaml(resolved: Resolved) -> str:
    """Format a configuration as YAML, with the origin of each value in a comment."""
    lines: list[str] = []
    _append_yaml(lines, resolved.config.model_dump(mode="json"), "", resolved.origins)
    return "\n".join(lines) + "\n"


def differences(old: Config, new: Config, *, ignore: Sequence[str] = ()) -> list[str]:
    """Return the settings that differ as lines `key: old -> new`; keys that start with one of `ignore` are left out."""
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
    notes = [] if parsed.canonical == source else [f"the canonical name of {source} is {parsed.canonical}"]
    return _Stack(parsed.canonical, _part_layers(parsed), parsed.parts, None, notes)


def is_path(source: str) -> bool:
    """Return whether a configuration is given as a path, not as a name."""
    return source.endswith((".yaml", ".yml")) or "/" in source


def _path(source: str) -> Path | None:
    """Return the file that `source` names, None if `source` is a name to parse."""
    if "\0" in source or len(source) > 4096:
        raise UsageError("not a configuration name", where=source[:60], why="it is too long or contains a NUL")
    if is_path(source):
        try:
            path = Path(source).expanduser()
            exists = path.is_file()
        except (OSError, RuntimeError) as error:  # the name is too long, the folder unreadable, no such home folder
            why = getattr(error, "strerror", None) or str(error)
            raise UsageError("cannot read the configuration", where=source, why=why) from error
        if not exists:
            raise UsageError("no such configuration file", where=source, remedy="Names are listed by --list")
        return path
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", source):
        why = "a name consists of letters, digits and . _ -"
        raise UsageError("not a configuration name", where=source[:60], why=why, remedy="Names are listed by --list")
    path = names.CONFIGS / f"{source}.yaml"
    if path.is_file() and names.CONFIGS.resolve() not in path.resolve().parents:
        raise UsageError("configuration is a link out of configs/", where=path, remedy="Give it as a path")
    return path if path.is_file() else None


def _file_stack(path: Path, seen: tuple[str, ...]) -> _Stack:
    document = reader.read_yaml(path)
    is_shipped = path.parent == names.CONFIGS
    if is_shipped:
        document = document._replace(path=f"configs/{path.name}")  # short, and the same in every installation
    mapping = dict(document.mapping)
    base, name = mapping.pop("base", None), mapping.pop("name", None)
    for key, value in (("base", base), ("name", name)):
        if value is not None and not isinstance(value, str):
            raise UsageError("wrong value", where=document.where(key), why=f"{key} is {value!r}, not a name")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", name):
        why = "a name consists of letters, digits and . _ -"
        raise UsageError("not a configuration name", where=document.where("name"), why=why)
    layer = _layer(mapping, document)
    dataset_setting = next((setting for setting in layer if setting.key == "dataset.name"), None)
    dataset = None
    if dataset_setting:
        dataset = names.dataset_fragment(str(dataset_setting.value), dataset_setting.origin).part
    typed = frozenset[str]() if is_shipped else frozenset(setting.key for setting in layer)
    if base is None:
        if not any(setting.key == "model.backbone" for setting in layer):
            remedy = "Write `base: NAME` at the top, or model.backbone and all settings that differ from the defaults"
            raise UsageError("incomplete configuration", where=document.path, why="it names no model", remedy=remedy)
        return _Stack(name or _name_of(path), [layer], [], dataset, [], typed)
    if str(path.resolve()) in seen:
        raise UsageError("configurations are based on each other", where=document.where("base"), why=" -> ".join(seen))
    if base.endswith((".yaml", ".yml")):
        base = str(path.parent / base)
    base_stack = _stack(base, (*seen, str(path.resolve())))
    return base_stack._replace(
        name=name or _as_word(path.stem),
        layers=[*base_stack.layers, layer],
        dataset=dataset or base_stack.dataset,
        notes=[],
        typed=base_stack.typed | typed,
    )


def _name_of(path: Path) -> str:
    """Return the canonical name if the file is named by parts, else the file's name."""
    try:
        return names.parse(path.stem, ask_timm=False).canonical
    except UsageError:
        return _as_word(path.stem)


def _as_word(text: str) -> str:
    """Return the name of a file with all characters replaced that run folders may not have."""
    return re.sub(r"^\.|[^A-Za-z0-9._-]", "_", text)[:200]


def _part_layers(parsed: names.Name) -> list[list[Setting]]:
    """Return one layer for each part, then the layers that the model's fragment adds for the methods of this name."""
    fragments = [parsed.model, *parsed.augment, *parsed.methods]
    layers = [_layer(fragment.settings, fragment.document) for fragment in fragments]
    for method in parsed.methods:
        if method.part in parsed.model.additions:
            addition = parsed.model.additions[method.part]
            layers.append(_layer(addition, parsed.model.document, prefix=f"with.{method.part}."))
    return layers


def _with_parts(source: str, parts: Sequence[str]) -> _Stack:
    """Add parts that were given as flags: to a name as its parts, to a file as layers on top of it."""
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
    """Flatten a nested mapping of settings; empty sections are ignored."""
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
    parent = next((known for known in KEYS if key.startswith(f"{known}.")), None)
    if parent:
        return UsageError(f"unknown key {key}", where=where, why=f"{parent} takes one value, not a section")
    last = key.rpartition(".")[2]
    same_word = [known for known in KEYS if known.rpartition(".")[2] == last]
    return UsageError(f"unknown key {key}", where=where, remedy=names.nearest(key, same_word or KEYS))


def _derive(merged: dict[str, Setting]) -> None:
    """Set what follows from other settings.

    Pretrained weights are not re-initialized; the width of the Q network follows the number of classes.
    """
    values = {key: setting.value for key, setting in merged.items()}
    if values.get("model.pretrained") is True and values.get("model.initialization.scope") == "all":
        merged["model.initialization.scope"] = Setting("model.initialization.scope", "q_network", "model.pretrained")
    num_classes = values.get("dataset.num_classes")
    objective = OBJECTIVES.get(str(values.get("objective.name")), OBJECTIVES["classification"])
    has_q_network = "joint_logits" in objective.needs
    if has_q_network and not values.get("objective.hidden_units") and type(num_classes) is int:
        key = "objective.hidden_units"
        merged[key] = Setting(key, hidden_units(num_classes), "dataset.num_classes")


def _validate(merged: dict[str, Setting]) -> Config:
    errors: list[AgmaxError] = []
    mapping: dict[str, Any] = {}
    for key, setting in merged.items():
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
            why = f"{'.'.join(path)} is set to one value, not a section"
            errors.append(UsageError(f"settings do not fit: {key}", where=setting.origin, why=why))
    try:
        config = Config.model_validate(mapping)
    except ValidationError as failure:
        explanations = {str(error): error for item in failure.errors() for error in _explain(item, merged)}
        raise ConfigErrors([*errors, *explanations.values()]) from failure
    problem = _unknown_optimizer(config.optimizer.name, merged)
    if errors or problem:
        raise ConfigErrors([*errors, *([problem] if problem else [])])
    return config


def _unknown_optimizer(name: str, merged: dict[str, Setting]) -> UsageError | None:
    """Return an error if timm has no optimizer of this name; timm is imported only for less usual names."""
    if name in USUAL_OPTIMIZERS:
        return None
    from timm.optim import list_optimizers  # slow, and needed only here

    known = [str(each) for each in list_optimizers()]
    if name in known:
        return None
    suggestion = names.nearest(name, known)
    remedy = suggestion if suggestion.startswith("Did") else f"Usual ones are {', '.join(USUAL_OPTIMIZERS)}"
    where, why = merged["optimizer.name"].origin, "timm has no such optimizer"
    return UsageError(f"wrong value optimizer.name={name!r}", where=where, why=why, remedy=remedy)


def _explain(item: Any, merged: dict[str, Setting]) -> list[UsageError]:
    """Turn one pydantic error into our messages: key, value, origin, and what is allowed."""
    if item["type"] == "value_error":  # a rule about several settings
        errors = []
        for text in str(item["ctx"]["error"]).splitlines():
            key, _, why = text.partition(": ")
            origin = next((merged[parent].origin for parent in _parents(key) if parent in merged), "default")
            errors.append(UsageError(f"settings do not fit: {key}", where=origin, why=why))
        return errors
    key = ".".join(str(word) for word in item["loc"])
    is_open = key.startswith(OPEN_KEYS)
    candidates = [
        setting
        for parent in _parents(key)
        for setting in merged.values()
        if setting.key == parent or (is_open and setting.key.startswith(f"{parent}."))
    ]
    setting = candidates[0] if candidates else Setting(key, None, "nowhere")
    allowed = choices(setting.key) if setting.key in KEYS else ()
    why = f"one of {', '.join(allowed)}" if allowed else item["msg"].replace("Input should be", "it must be")
    if is_open:  # pydantic reports one error for each allowed type
        why = "it must be a number, a word, true or false"
    remedy = names.nearest(str(setting.value), allowed) if allowed else ""
    if allowed and remedy.startswith("Known"):
        remedy = ""
    value = repr(setting.value) if len(repr(setting.value)) <= 60 else repr(setting.value)[:57] + "..."
    return [UsageError(f"wrong value {setting.key}={value}", where=setting.origin, why=why, remedy=remedy)]


def _parents(key: str) -> list[str]:
    """Return the key and its parents, nearest first: `a.b.0.int` gives a.b.0.int, a.b.0, a.b, a."""
    words = key.split(".")
    return [".".join(words[:end]) for end in range(len(words), 0, -1)]


def _append_yaml(lines: list[str], mapping: dict[str, Any], prefix: str, origins: dict[str, str]) -> None:
    indent = "  " * prefix.count(".")
    for key, value in mapping.items():
        dotted = prefix + key
        if isinstance(value, dict) and value:
            lines.append(f"{indent}{reader.format_value(key)}:")
            _append_yaml(lines, value, f"{dotted}.", origins)
        else:
            text = f"{reader.format_value(key)}: {reader.format_value(value)}"
            lines.append(f"{indent}{text}  # {printable(origins.get(dotted, 'default'))}")
