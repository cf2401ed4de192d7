"""Read YAML strictly: YAML 1.2 numbers, no duplicate keys, no tags, no aliases, limited size and depth."""

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from agmax.core.errors import ConfigErrors, UsageError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_EVENTS = 20_000


class Document(NamedTuple):
    """A configuration file as nested mappings, with the line of each key."""

    mapping: dict[str, Any]
    lines: dict[str, int]  # dotted key -> line, counted from 1
    path: str

    def where(self, key: str) -> str:
        """Name the file and line of a dotted key, or of the nearest key above it."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return f"{self.path}:{self.lines[key]}" if key else self.path


class _Loader(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 does: `1e-3` is a number; `on`, `010` and `12:30` are text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes strings that this reader or a YAML 1.1 reader would read as another type."""


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,19})", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|(?:0|[1-9][0-9]*)(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})\Z"), _first)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan")
    return float(text)


_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def read_yaml(path: Path) -> Document:
    """Read a YAML file whose top level is a mapping.

    Raises:
        UsageError: the file cannot be read, is not plain YAML, or has a duplicate key.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError("cannot read the configuration", where=path, why=error.strerror or str(error)) from error
    if len(raw) > MAX_BYTES:
        raise UsageError("configuration too large", where=path, why=f"at most {MAX_BYTES} bytes are read")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise UsageError("byte-order mark in a configuration", where=path, remedy="Save it as UTF-8 without BOM")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError("configuration is not UTF-8", where=path, why=str(error)) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, path: str) -> Document:
    """Parse YAML text whose top level is a mapping; `path` is the name of the text in messages.

    Raises:
        UsageError: the text is not plain YAML, or has a duplicate key.
    """
    node = _compose(text, path)
    if node is None:
        return Document({}, {}, path)
    if not isinstance(node, yaml.MappingNode):
        raise UsageError("configuration is not a mapping", where=path, remedy="Write lines of the form `section:`")
    loader = _Loader("")
    lines: dict[str, int] = {}
    errors: list[UsageError] = []
    mapping = _mapping(loader, node, "", path, lines, errors)
    if errors:
        raise ConfigErrors(errors)
    return Document(mapping, lines, path)


def parse_value(text: str) -> Any:
    """Parse one value, as it would stand behind the colon in a file."""
    node = _compose(text, text)
    if isinstance(node, yaml.MappingNode):
        return parse_yaml(text, text).mapping
    return None if node is None else _construct(_Loader(""), node)


def format_value(value: Any) -> str:
    """Format one value on one line; `parse_value` is the inverse."""
    style = '"' if isinstance(value, str) and not value.isprintable() else None  # escapes line breaks
    text = yaml.dump(
        value, Dumper=_Dumper, default_style=style, default_flow_style=True, width=sys.maxsize, allow_unicode=True
    )
    return text.splitlines()[0]


def _compose(text: str, path: str) -> yaml.Node | None:
    try:
        depth = num_documents = 0
        event: Any
        events = yaml.parse(text, Loader=_Loader)  # a generator: the checks come before any object is built
        for number, event in enumerate(events):
            where = f"{path}:{event.start_mark.line + 1}" if event.start_mark else path
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise UsageError("anchor or alias in YAML", where=where, remedy="Write the value out")
            if getattr(event, "tag", None):
                why = f"{event.tag} is not supported"
                raise UsageError("tag in YAML", where=where, why=why, remedy="Write plain values")
            num_documents += isinstance(event, yaml.DocumentStartEvent)
            if num_documents > 1:
                raise UsageError("second document in YAML", where=where, remedy="Keep one")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise UsageError("YAML nested too deeply", where=where, why=f"at most {MAX_DEPTH} levels are read")
            if number > MAX_EVENTS:
                raise UsageError("configuration too large", where=where, why="it has thousands of values")
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
        return node
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError("not valid YAML", where=where, why=why) from error


def _mapping(
    loader: _Loader, node: yaml.MappingNode, prefix: str, path: str, lines: dict[str, int], errors: list[UsageError]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        if key is None:
            errors.append(UsageError("key is not a word", where=f"{path}:{line}", why="keys are single words"))
            continue
        dotted = f"{prefix}{key}"
        if key in result:
            why = f"first on line {lines[dotted]}"
            errors.append(UsageError(f"duplicate key {dotted}", where=f"{path}:{line}", why=why))
            continue
        lines[dotted] = line
        if isinstance(value_node, yaml.MappingNode):
            result[key] = _mapping(loader, value_node, f"{dotted}.", path, lines, errors)
        else:
            result[key] = _construct(loader, value_node)
    return result


def _construct(loader: _Loader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _construct(loader, value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item) for item in node.value]
    return loader.construct_object(node)
