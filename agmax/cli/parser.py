"""Parse the command line: modes, flags and overrides."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from agmax.cli import soft_flags
from agmax.cli.flags import FLAGS
from agmax.cli.modes import MODES, OPTIONS, Mode
from agmax.config import names, reader
from agmax.config.resolve import ConfigRequest, Setting, is_path
from agmax.core.errors import UsageError

OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)+=")


DEFAULT_MODEL = "WideResNet28-10"
"""The model of the AgMax program, used if flags name augmentations or methods and none names a model."""


class Request(NamedTuple):
    """A parsed command line."""

    mode: str
    config_request: ConfigRequest  # configuration, data set and settings
    options: dict[str, Any]  # of the mode; `word` and `names` are its arguments, `argv` the command line
    imports: tuple[str, ...]  # the user's Python files to run first
    as_json: bool
    debug: bool
    remarks: tuple[str, ...]  # on flags that differ from the AgMax program


def parse(argv: Sequence[str]) -> Request:
    """Parse the command line.

    Raises:
        UsageError: a wrong or unsupported flag, or a malformed override.
        SystemExit: by argparse, with status 0, after --help.
    """
    soft_flags.refuse(argv)
    arguments = vars(_parser().parse_intermixed_args(_separate_overrides(argv)))
    for name, value in arguments.items():
        if value == [] and name != "overrides":  # argparse returns [] for `--config=--`
            raise UsageError("wrong command line", why=f"--{name.replace('_', '-')} has no value", remedy="See --help")
    overrides = [*arguments["overrides"], *_pop_overrides(arguments)]
    parts, settings, remarks = _flags(arguments)
    settings += [_override(text) for text in overrides]
    mode = _mode(arguments)
    options = _options(arguments, mode)
    source, resume = arguments["config"], options.get("resume")
    if (checkpoint := options.pop("checkpoint", None)) is not None:
        if resume is not None:
            raise UsageError("--checkpoint and --resume are both given", why="they are the same", remedy="Keep one")
        resume = checkpoint
    if not mode.takes_config and source:
        remedy = "Leave --config out; settings beside --study apply to all its runs"
        why = "runs, studies and checkpoints have their own configuration"
        raise UsageError("flag not supported", where="--config", why=why, remedy=remedy)
    unsupported = [arguments["dataset"] or "", *parts, *(s.key for s in settings if s.key != "train.runs_dir")]
    if not mode.takes_settings and any(unsupported):
        where, why = ", ".join(filter(None, unsupported)), f"--{mode.name} only reads existing runs"
        raise UsageError("settings not supported", where=where, why=why, remedy="Leave them out")
    if source is None and parts and resume:
        why = "they add parts to a configuration"
        raise UsageError("flags that add parts need --config", where=" ".join(parts), why=why, remedy="Give --config")
    if source is None and parts and mode.takes_config and mode.name != "list":
        source = arguments["feature_extractor"] or DEFAULT_MODEL
    agreements = [part for part in parts if part.startswith("agmax_")]
    if agreements:  # the first replaces agmax, in the flags and in the name
        parts = [part for part in parts if part != "agmax" and part not in agreements[1:]]
        if source and not is_path(source):
            source = "-".join(word for word in source.split("-") if word != "agmax")
    config_request = ConfigRequest(
        source, arguments["dataset"], tuple(part for part in parts if part != source), tuple(settings), resume
    )
    options["argv"] = tuple(argv)
    imports = tuple(os.path.expanduser(path) for path in arguments["import"] or ())
    return Request(mode.name, config_request, options, imports, arguments["json"], arguments["debug"], tuple(remarks))


def _options(arguments: dict[str, Any], mode: Mode) -> dict[str, Any]:
    """Return the options of the mode; refuse options of other modes, and numbers below 1."""
    options: dict[str, Any] = {}
    for option, settings in OPTIONS.items():
        name = option.replace("-", "_")
        value = arguments[name]
        if option in mode.options:
            options[name] = os.path.expanduser(value) if settings.get("metavar") == "FILE" and value else value
        elif value != _default(settings):
            *others, last = (f"--{each.name}" for each in MODES.values() if option in each.options)
            modes = f"{', '.join(others)} or {last}" if others else last
            raise UsageError("flag not supported", where=f"--{option}", why=f"it belongs to {modes}")
        if settings.get("type") is int and value is not None and value < 1:
            raise UsageError("wrong value", where=f"--{option}={value}", why="it must be 1 or more")
    given = arguments[mode.name.replace("-", "_")]
    if mode.words:
        options["word"] = given
    if mode.names:
        options["names"] = (given,) if isinstance(given, str) else tuple(given)
    return options


def _default(settings: dict[str, Any]) -> Any:
    """Return argparse's default of a flag."""
    return settings.get("default", False if settings.get("action") == "store_true" else None)


def _pop_overrides(arguments: dict[str, Any]) -> list[str]:
    """Remove and return overrides among the names of a mode: `--compare A B train.runs_dir=mine`."""
    overrides = []
    for mode in (mode.name for mode in MODES.values() if mode.names):
        given = arguments[mode]
        if isinstance(given, list):
            overrides += [word for word in given if OVERRIDE.match(word)]
            arguments[mode] = [word for word in given if not OVERRIDE.match(word)]
    return overrides


def _separate_overrides(argv: Sequence[str]) -> list[str]:
    """Keep an override from being read as a flag's value: `--resume train.epochs=5` resumes the newest run."""
    words = list(argv)
    defaults = {"--resume": ""} | {f"--{mode.name}": mode.words[0] for mode in MODES.values() if mode.words}
    for position, word in enumerate(words[:-1]):
        if word in defaults and OVERRIDE.match(words[position + 1]):
            words[position] = f"{word}={defaults[word]}"
    return words


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as a UsageError."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        remedy = names.nearest(unknown[1], self._option_string_actions, cutoff=0.7) if unknown else "See --help"
        raise UsageError("wrong command line", why=message, remedy=remedy if len(remedy) < 80 else "See --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="main.py" if sys.argv[0].endswith(".py") else "agmax",
        description="Train and evaluate image classifiers with AgMax and Soft Augmentation.",
        epilog="Override settings as section.key=value, e.g. augment.cutmix.p=0.5; --print-config lists them.",
        allow_abbrev=False,
    )
    modes = parser.add_argument_group("modes").add_mutually_exclusive_group()
    for mode in MODES.values():
        if mode.names:
            modes.add_argument(f"--{mode.name}", nargs=mode.names[0], metavar=mode.names[1], help=mode.help)
        elif mode.words:
            modes.add_argument(f"--{mode.name}", nargs="?", const=mode.words[0], choices=mode.words, help=mode.help)
        else:
            modes.add_argument(f"--{mode.name}", action="store_true", help=mode.help)
    parser.add_argument(
        "--config", metavar="NAME", help="parts joined by '-', the name of a file in configs/, or a path"
    )
    parser.add_argument("--dataset", metavar="NAME", help="one of --list datasets")
    for option, settings in OPTIONS.items():
        parser.add_argument(f"--{option}", **settings)
    import_help = (
        "run a Python file first, which registers your transforms, objectives, data sets, ...; may be repeated"
    )
    parser.add_argument("--import", action="append", metavar="FILE", help=import_help)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings")
    group = parser.add_argument_group("settings as flags")
    for row in FLAGS:
        help_text = row.to.replace("part:", "adds the part ") if row.to else row.remark
        if row.type is None:
            group.add_argument(row.flag, action="store_true", default=None, help=help_text)
        else:
            group.add_argument(row.flag, type=_number(row.type), metavar="X", help=help_text)
    return parser


def _number(kind: Any) -> Any:
    """Return the converter of a flag's value; numbers may be written as in YAML."""

    def convert(text: str) -> Any:
        value = reader.parse_value(text)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(text)  # argparse names the flag
        is_whole = isinstance(value, float) and kind is int and value.is_integer()
        return int(value) if is_whole else value

    if kind is str:
        return str
    convert.__name__ = kind.__name__
    return convert


def _mode(arguments: dict[str, Any]) -> Mode:
    given = [mode for mode in MODES.values() if arguments[mode.name.replace("-", "_")]]
    if not given:
        *others, last = (f"--{mode}" for mode in MODES)
        raise UsageError("nothing to do", remedy=f"Give {', '.join(others)} or {last}; see --help")
    return given[0]


def _flags(arguments: dict[str, Any]) -> tuple[list[str], list[Setting], list[str]]:
    """Return parts, settings and remarks of the given flags."""
    parts: list[str] = []
    settings: list[Setting] = []
    remarks: list[str] = []
    implied: dict[str, Setting] = {}
    for row in FLAGS:
        value = arguments[row.flag[2:].replace("-", "_")]
        if value is None:
            continue
        if row.refused:
            raise UsageError("flag not supported", where=row.flag, why=row.remark)
        if row.remark:
            remarks.append(f"{row.flag}: {row.remark}")
        if row.to.startswith("part:"):
            parts.append(row.to.removeprefix("part:") or str(value))
            continue
        for word in row.to.split():
            key, _, constant = word.partition("=")
            settings.append(Setting(key, reader.parse_value(constant) if constant else value, row.flag))
            other = implied.setdefault(key, settings[-1]) if constant else settings[-1]
            if other.value != settings[-1].value:
                raise UsageError(f"{other.origin} and {row.flag} both set {key}; keep one")
    # An explicit value wins over one that a schedule flag implies, in any order: --cosinelr --warmup-epochs 3.
    settings.sort(
        key=lambda setting: setting.origin in ("--steplr", "--cosinelr", "--multisteplr", "--plateau"), reverse=True
    )
    return parts, settings, remarks


def _override(text: str) -> Setting:
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
        raise UsageError("not an override", where=text, remedy="Write section.key=value, or put -- before flags")
    return Setting(key, reader.parse_value(value), "the command line")
