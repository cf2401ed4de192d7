"""Write the page of all settings, from the schema: `python -m agmax.reports.settings > docs/settings.md`."""

import ast
import inspect
import json
import types
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agmax.config import schema
from agmax.config.schema import Config

HEAD = """\
# Settings

This page is made from `agmax/config/schema.py` by `python -m agmax.reports.settings`.

Type a setting as `section.key=value` behind a command, or write it into a file ([Train](train.md#settings)).
The defaults here are those of the program. Data sets, models and methods change many of them.
`--print-config` shows the value that your command would use, and where it came from.
`null` means: not set.
"""

KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text", dict: "mapping", list: "list"}


def page() -> str:
    """Return the Markdown page: one table for each section, one row for each setting."""
    return "\n".join([HEAD, *_section(Config, "")])


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field of a section, empty if there is none."""
    texts: dict[str, str] = {}
    (kind,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(kind, ast.ClassDef)
    for field, text in zip(kind.body, [*kind.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            texts[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split()) if is_text else ""  # type: ignore[union-attr]
    return texts


def _section(model: type[BaseModel], prefix: str) -> list[str]:
    """Return the lines of a section and its subsections."""
    texts, rows, inner = descriptions(model), list[str](), list[str]()
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner += ["", f"## {prefix}{name}" if not prefix else f"### {prefix}{name}", ""]
            inner += _section(kind, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else f"`{json.dumps(field.get_default())}`"
            rows.append(f"| `{prefix}{name}` | {_values(prefix + name, field)} | {default} | {texts[name]} |")
    about = " ".join((model.__dict__.get("__doc__") or "").split()) if prefix else ""
    head = ["| setting | values | default | meaning |", "|---|---|---|---|"]
    return [*([about, ""] if about else []), *([*head, *rows] if rows else []), *inner]


def _values(key: str, field: FieldInfo) -> str:
    """Return the possible values of a setting: its words, or its type and range."""
    words = schema.choices(key)
    if words:
        return ", ".join(f"`{word}`" for word in words)
    text, limits = _kind(field.annotation)
    limits += [limit for mark in field.metadata if (limit := _limit(mark))]
    return ", ".join([text, *dict.fromkeys(limits)])


def _kind(annotation: Any) -> tuple[str, list[str]]:
    """Return the name of a type, and its limits."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        text, limits = _kind(inner[0])
        return text, limits + [limit for mark in annotation.__metadata__ for limit in _limits(mark)]
    if origin in (Union, types.UnionType):
        kinds = [_kind(each) for each in inner if each is not type(None)]
        is_optional = type(None) in inner
        texts = list(dict.fromkeys(text for text, _ in kinds))
        limits = [limit for _, each in kinds for limit in each]
        return " or ".join([*texts, *(["null"] if is_optional else [])]), limits
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in inner), []
    if origin is list:
        text, limits = _kind(inner[0])
        return f"list of {text}s", [f"each {limit}" for limit in limits]
    return KINDS[origin or annotation], []


def _limits(mark: Any) -> list[str]:
    """Return the limits of a pydantic Field or of one of its annotations."""
    marks = mark.metadata if isinstance(mark, FieldInfo) else [mark]
    return [limit for each in marks if (limit := _limit(each))]


def _limit(mark: Any) -> str:
    for kind, attribute, words in (
        (Ge, "ge", "at least"),
        (Gt, "gt", "above"),
        (Le, "le", "at most"),
        (Lt, "lt", "below"),
    ):
        if isinstance(mark, kind):
            return f"{words} {getattr(mark, attribute):g}"
    if isinstance(mark, MinLen) and mark.min_length > 1:
        return f"{mark.min_length} of them"
    return f"at most {mark.max_length} of them" if isinstance(mark, MaxLen) and mark.max_length < 2 else ""


if __name__ == "__main__":
    print(page(), end="\n")
