"""The command line: modes, flags, and the setting that each flag stands for."""

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
"""The AgMax program's, where flags name augmentations or methods and nothing names a model."""


class Request(NamedTuple):
    """What the user asked for."""

    mode: str
    config_request: ConfigRequest  # what to train or evaluate
    options: dict[str, Any]  # the mode's own; `word` and `names` are what it was given, `argv` is all that was typed
    imports: tuple[str, ...]  # files of the user's own to run first
    as_json: bool
    debug: bool
    remarks: tuple[str, ...]  # on flags that are understood otherwise than they were meant


def parse(argv: Sequence[str]) -> Request:
    """Read the command line.

    Raises:
        UsageError: a wrong flag, one that this program does not follow, or an override that is none.
        SystemExit: argparse's own, with status 0, after --help.
    """
    soft_flags.refuse(argv)
    arguments = vars(_parser().parse_intermixed_args(_without_value(argv)))
    for name, value in arguments.items():
        if value == [] and name != "overrides":  # what argparse makes of `--config=--`
            raise UsageError("wrong command line", why=f"--{name.replace('_', '-')} has no value", remedy="See --help")
    overrides = [*arguments["overrides"], *_overrides_among_names(arguments)]
    parts, settings, remarks = _flags(arguments)
    settings += [_override(text) for text in overrides]
    mode = _mode(arguments)
    options = _options(arguments, mode)
    source, resume = arguments["config"], options.get("resume")
    if (checkpoint := options.pop("checkpoint", None)) is not None:
        if resume is not None:
            raise UsageError("--checkpoint and --resume mean the same", remedy="Keep one of them")
        resume = checkpoint
    if not mode.takes_config and source:
        remedy = "Leave --config out; settings beside --study hold for all its runs"
        why = "runs, studies and checkpoints name theirs"
        raise UsageError("flag not followed", where="--config", why=why, remedy=remedy)
    not_followed = [arguments["dataset"] or "", *parts, *(s.key for s in settings if s.key != "train.runs_dir")]
    if not mode.takes_settings and any(not_followed):
        where, why = ", ".join(filter(None, not_followed)), f"--{mode.name} looks at runs as they are"
        raise UsageError("settings not followed", where=where, why=why, remedy="Leave them out")
    if source is None and parts and resume:
        why = "they add to a configuration"
        raise UsageError("flags that name parts need --config", where=" ".join(parts), why=why, remedy="Give --config")
    if source is None and parts and mode.takes_config and mode.name != "list":
        source = arguments["feature_extractor"] or DEFAULT_MODEL
    variants = [part for part in parts if part.startswith("agmax_")]
    if variants:  # they replace the agreement of agmax, wherever that was named
        parts = [part for part in parts if part != "agmax" and part not in variants[1:]]
        if source and not is_path(source):
            source = "-".join(word for word in source.split("-") if word != "agmax")
    config_request = ConfigRequest(
        source, arguments["dataset"], tuple(part for part in parts if part != source), tuple(settings), resume
    )
    options["argv"] = tuple(argv)
    imports = tuple(os.path.expanduser(path) for path in arguments["import"] or ())
    return Request(mode.name, config_request, options, imports, arguments["json"], arguments["debug"], tuple(remarks))


def _options(arguments: dict[str, Any], mode: Mode) -> dict[str, Any]:
    """Return the flags that go with the mode, and refuse those that do not, and numbers that no flag can have."""
    found: dict[str, Any] = {}
    for option, how in OPTIONS.items():
        name = option.replace("-", "_")
        value = arguments[name]
        if option in mode.options:
            found[name] = os.path.expanduser(value) if how.get("metavar") == "FILE" and value else value
        elif value != _default(how):
            *most, last = (f"--{each.name}" for each in MODES.values() if option in each.options)
            modes = f"{', '.join(most)} or {last}" if most else last
            raise UsageError("flag not followed", where=f"--{option}", why=f"it goes with {modes}")
        if how.get("type") is int and value is not None and value < 1:
            raise UsageError("wrong value", where=f"--{option}={value}", why="it must be 1 or more")
    given = arguments[mode.name.replace("-", "_")]
    if mode.words:
        found["word"] = given
    if mode.names:
        found["names"] = (given,) if isinstance(given, str) else tuple(given)
    return found


def _default(how: dict[str, Any]) -> Any:
    """Return what argparse gives for a flag that was not typed."""
    return how.get("default", False if how.get("action") == "store_true" else None)


def _overrides_among_names(arguments: dict[str, Any]) -> list[str]:
    """Take the overrides from what a mode with several names has taken: `--compare A B train.runs_dir=mine`."""
    taken = []
    for mode in (mode.name for mode in MODES.values() if mode.names):
        given = arguments[mode]
        if isinstance(given, list):
            taken += [word for word in given if OVERRIDE.match(word)]
            arguments[mode] = [word for word in given if not OVERRIDE.match(word)]
    return taken


def _without_value(argv: Sequence[str]) -> list[str]:
    """Keep a flag from taking an override that follows it: `--resume train.epochs=5` resumes the newest run."""
    words = list(argv)
    alone = {"--resume": ""} | {f"--{mode.name}": mode.words[0] for mode in MODES.values() if mode.words}
    for position, word in enumerate(words[:-1]):
        if word in alone and OVERRIDE.match(words[position + 1]):
            words[position] = f"{word}={alone[word]}"
    return words


class _Parser(argparse.ArgumentParser):
    """Answers a wrong command line with one line, as every error is."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        remedy = names.nearest(unknown[1], self._option_string_actions, cutoff=0.7) if unknown else "See --help"
        raise UsageError("wrong command line", why=message, remedy=remedy if len(remedy) < 80 else "See --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="main.py" if sys.argv[0].endswith(".py") else "agmax",
        description="Train and evaluate image classifiers with AgMax and Soft Augmentation.",
        epilog="Settings are overridden as section.key=value, e.g. augment.cutmix.p=0.5; see --print-config.",
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
    parser.add_argument("--config", metavar="NAME", help="parts joined by '-', a file of configs/, or a path")
    parser.add_argument("--dataset", metavar="NAME", help="one of --list datasets")
    for option, how in OPTIONS.items():
        parser.add_argument(f"--{option}", **how)
    import_help = "run a file of your own first, which joins transforms, objectives, data sets, ...; may be repeated"
    parser.add_argument("--import", action="append", metavar="FILE", help=import_help)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
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
    """Return the reader of a flag's value: numbers may be written as in YAML, words are kept."""

    def convert(text: str) -> Any:
        value = reader.parse_value(text)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(text)  # argparse names the flag
        whole = isinstance(value, float) and kind is int and value.is_integer()
        return int(value) if whole else value

    if kind is str:
        return str
    convert.__name__ = kind.__name__
    return convert


def _mode(arguments: dict[str, Any]) -> Mode:
    chosen = [mode for mode in MODES.values() if arguments[mode.name.replace("-", "_")]]
    if not chosen:
        *most, last = (f"--{mode}" for mode in MODES)
        raise UsageError("nothing to do", remedy=f"Give {', '.join(most)} or {last}; see --help")
    return chosen[0]


def _flags(arguments: dict[str, Any]) -> tuple[list[str], list[Setting], list[str]]:
    """Return the parts, the settings and the remarks of the flags that were given."""
    parts: list[str] = []
    settings: list[Setting] = []
    remarks: list[str] = []
    implied: dict[str, Setting] = {}
    for row in FLAGS:
        value = arguments[row.flag[2:].replace("-", "_")]
        if value is None:
            continue
        if row.refused:
            raise UsageError("flag not followed", where=row.flag, why=row.remark)
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
    # A more particular flag wins over what another implies, whatever the order: --cosinelr --warmup-epochs 3.
    settings.sort(
        key=lambda setting: setting.origin in ("--steplr", "--cosinelr", "--multisteplr", "--plateau"), reverse=True
    )
    return parts, settings, remarks


def _override(text: str) -> Setting:
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
        raise UsageError("not an override", where=text, remedy="Write section.key=value, or put -- before flags")
    return Setting(key, reader.parse_value(value), "the command line")
