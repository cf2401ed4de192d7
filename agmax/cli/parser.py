"""The command line: modes, flags, and the setting that each flag stands for."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from agmax.cli import soft_flags
from agmax.cli.flags import FLAGS
from agmax.config import names, reader
from agmax.config.resolve import Setting, is_path
from agmax.core.errors import UsageError

MODES = {
    "train": "train, evaluating after every epoch",
    "eval": "evaluate a checkpoint (--resume); writes nothing",
    "print-config": "show every setting and where it came from",
    "summary": "show the model's layers, parameters and operations",
}
LISTS = ("configs", "parts", "models", "datasets")
PREVIEWS = ("batch", "curves")
BENCHMARKS = ("augment", "evaluation")
EXPORTS = ("safetensors", "onnx", "extractor")
WORDS = {
    "list": (LISTS, "list what there is"),
    "preview": (PREVIEWS, "draw what the model is trained on, as a PNG picture (--output)"),
    "export": (EXPORTS, "write the weights of --resume, or fresh ones of --config, for other programs (--output)"),
    "benchmark": (
        BENCHMARKS,
        "time the augmentation, or an evaluation from files, beside other programs', in one run on this machine",
    ),
}
"""The modes that take a word: the words there are, the first where none is given, and the help."""

NAMED: dict[str, tuple[int | str | None, str | tuple[str, ...], str]] = {
    "study": (
        None,
        "FILE",
        "run what is missing of a study: variants x seeds from one file, or a name of configs/study",
    ),
    "compare": ("+", "RUN", "compare finished run folders: tables, intervals, figures, a page"),
    "download": (None, "NAME", "fetch a released checkpoint into checkpoints/, or `all` of them"),
    "predict": ("+", "PATH", "classify image files, or those in folders, with the weights of --resume: CSV, or --json"),
    "diff": (2, ("A", "B"), "list the settings and metrics in which two runs differ"),
}
"""The modes that take files or folders: how many, what they are called, and the help."""


OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)+=")


DEFAULT_MODEL = "WideResNet28-10"
"""The AgMax program's, where flags name augmentations or methods and nothing names a model."""


class Request(NamedTuple):
    """What the user asked for."""

    mode: str
    source: str | None  # a configuration's name or path
    dataset: str | None
    parts: tuple[str, ...]
    settings: tuple[Setting, ...]
    resume: str | None  # None: not given; "": the newest run
    num_runs: int
    split: str
    predictions: str | None
    output: str | None  # a file to write
    force: bool  # replace one that is there
    what: str  # the word of --list, --preview or --benchmark
    named: tuple[str, ...]  # the files or folders of --study, --compare or --diff
    normalise: bool
    top_k: int
    allow_nonfinite: bool
    dry_run: bool
    fresh: bool
    jobs: int | None
    cell: int | None
    print_slurm: bool
    words: tuple[str, ...]  # the command line as typed
    as_json: bool
    debug: bool
    remarks: tuple[str, ...]


def parse(argv: Sequence[str]) -> Request:
    """Read the command line.

    Raises:
        UsageError: a wrong flag, one that this program does not follow, or an override that is none.
        SystemExit: argparse's own, with status 0, after --help.
    """
    soft_flags.refuse(argv)
    arguments = _parser().parse_intermixed_args(_without_value(argv))
    for name, value in vars(arguments).items():
        if value == [] and name != "overrides":  # what argparse makes of `--config=--`
            raise UsageError("wrong command line", why=f"--{name.replace('_', '-')} has no value", remedy="See --help")
    overrides = [*arguments.overrides, *_overrides_among_named(arguments)]
    parts, settings, remarks = _flags(arguments)
    settings += [_override(text) for text in overrides]
    _check_together(arguments, _mode(arguments))
    not_followed = [arguments.dataset or "", *parts, *(s.key for s in settings if s.key != "train.runs_dir")]
    if _mode(arguments) in ("compare", "diff") and any(not_followed):
        where, why = ", ".join(filter(None, not_followed)), f"--{_mode(arguments)} looks at runs as they are"
        raise UsageError("settings not followed", where=where, why=why, remedy="Leave them out")
    source = arguments.config
    if source is None and parts and arguments.resume:
        why = "they add to a configuration"
        raise UsageError("flags that name parts need --config", where=" ".join(parts), why=why, remedy="Give --config")
    if source is None and parts and _mode(arguments) not in ("list", *NAMED):
        source = arguments.feature_extractor or DEFAULT_MODEL
    variants = [part for part in parts if part.startswith("agmax_")]
    if variants:  # they replace the agreement of agmax, wherever that was named
        parts = [part for part in parts if part != "agmax" and part not in variants[1:]]
        if source and not is_path(source):
            source = "-".join(word for word in source.split("-") if word != "agmax")
    return Request(
        mode=_mode(arguments),
        source=source,
        dataset=arguments.dataset,
        parts=tuple(part for part in parts if part != source),
        settings=tuple(settings),
        resume=arguments.resume,
        num_runs=arguments.n_runs,
        split=arguments.split or "test",
        predictions=_expanded(arguments.predictions),
        output=_expanded(arguments.output),
        force=arguments.force,
        what=next((word for mode in WORDS if (word := getattr(arguments, mode))), ""),
        named=_named(arguments),
        normalise=arguments.normalise,
        top_k=arguments.top_k or 5,
        allow_nonfinite=arguments.allow_nonfinite,
        dry_run=arguments.dry_run,
        fresh=arguments.fresh,
        jobs=arguments.jobs,
        cell=arguments.cell,
        print_slurm=arguments.print_slurm,
        words=tuple(argv),
        as_json=arguments.json,
        debug=arguments.debug,
        remarks=tuple(remarks),
    )


def _check_together(arguments: argparse.Namespace, mode: str) -> None:
    """Refuse flags that do not go with the mode, and values that no flag can have."""
    if arguments.resume is not None and mode not in ("train", "eval", "predict", "export"):
        why = "it goes with --train, --eval, --predict or --export"
        raise UsageError("flag not followed", where="--resume", why=why)
    for flag, value, *its_modes in (
        ("--n-runs", arguments.n_runs > 1, "train"),
        ("--split", arguments.split, "eval"),
        ("--predictions", arguments.predictions, "eval"),
        ("--output", arguments.output is not None, "preview", "eval", "export"),
        ("--force", arguments.force, "preview", "eval", "export"),
        ("--normalise", arguments.normalise, "export"),
        ("--top-k", arguments.top_k is not None, "predict"),
        ("--allow-nonfinite", arguments.allow_nonfinite, "eval"),
        ("--dry-run", arguments.dry_run, "study"),
        ("--fresh", arguments.fresh, "study"),
        ("--jobs", arguments.jobs is not None, "study"),
        ("--cell", arguments.cell is not None, "study"),
        ("--print-slurm", arguments.print_slurm, "study"),
    ):
        if value and mode not in its_modes:
            raise UsageError("flag not followed", where=flag, why=f"it goes with --{' or --'.join(its_modes)}")
    numbers = {name: getattr(arguments, name) for name in ("n_runs", "jobs", "cell", "top_k")}
    for flag, count in ((f"--{name.replace('_', '-')}", number) for name, number in numbers.items()):
        if count is not None and count < 1:
            raise UsageError("wrong value", where=f"{flag}={count}", why="it must be 1 or more")
    if mode in NAMED and arguments.config:
        remedy = "Leave --config out; settings beside --study hold for all its cells"
        why = "runs, studies and checkpoints name theirs"
        raise UsageError("flag not followed", where="--config", why=why, remedy=remedy)
    is_picture = mode != "export"
    if arguments.output is not None and is_picture and not arguments.output.lower().endswith(".png"):
        where, remedy = f"--output={arguments.output}", "Write a name that ends in .png"
        raise UsageError("wrong value", where=where, why="the picture is a PNG file", remedy=remedy)


def _named(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return what the mode is to work on."""
    given = next((value for mode in NAMED if (value := getattr(arguments, mode))), ())
    return (given,) if isinstance(given, str) else tuple(given)


def _overrides_among_named(arguments: argparse.Namespace) -> list[str]:
    """Take the overrides from what a mode with several names has taken: `--compare A B train.runs_dir=mine`."""
    taken = []
    for mode in NAMED:
        given = getattr(arguments, mode)
        if isinstance(given, list):
            taken += [word for word in given if OVERRIDE.match(word)]
            setattr(arguments, mode, [word for word in given if not OVERRIDE.match(word)])
    return taken


def _without_value(argv: Sequence[str]) -> list[str]:
    """Keep a flag from taking an override that follows it: `--resume train.epochs=5` resumes the newest run."""
    words = list(argv)
    alone = {"--resume": ""} | {f"--{mode}": there_are[0] for mode, (there_are, _) in WORDS.items()}
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
        epilog="Settings are overridden as section.key=value, e.g. augment.cutmix.probability=0.5; see --print-config.",
        allow_abbrev=False,
    )
    modes = parser.add_argument_group("modes").add_mutually_exclusive_group()
    for mode, help_text in MODES.items():
        modes.add_argument(f"--{mode}", action="store_true", help=help_text)
    for mode, (words, help_text) in WORDS.items():
        modes.add_argument(f"--{mode}", nargs="?", const=words[0], choices=words, help=help_text)
    for mode, (number, metavar, help_text) in NAMED.items():
        modes.add_argument(f"--{mode}", nargs=number, metavar=metavar, help=help_text)
    parser.add_argument("--config", metavar="NAME", help="parts joined by '-', a file of configs/, or a path")
    parser.add_argument("--dataset", metavar="NAME", help="one of --list datasets")
    resume_help = "a checkpoint, a run folder or a name; without value the newest run of this configuration"
    parser.add_argument("--resume", nargs="?", const="", metavar="X", help=resume_help)
    parser.add_argument("--n-runs", type=int, default=1, metavar="N", help="train with N seeds and summarise")
    parser.add_argument("--split", choices=("train", "validation", "test"), help="what --eval measures (test)")
    parser.add_argument("--predictions", metavar="FILE", help="where --eval writes its predictions (.npz)")
    parser.add_argument("--output", metavar="FILE", help="where --preview or --eval draws, or --export writes")
    parser.add_argument("--force", action="store_true", help="replace the file that --output or --predictions names")
    parser.add_argument("--normalise", action="store_true", help="let the graph of --export onnx normalise its images")
    parser.add_argument("--top-k", type=int, metavar="K", help="classes that --predict names for each image (5)")
    parser.add_argument("--allow-nonfinite", action="store_true", help="let --eval take weights that are nan or inf")
    parser.add_argument("--dry-run", action="store_true", help="show what --study would train, and for how long")
    parser.add_argument("--fresh", action="store_true", help="repeat the cells of --study that other code has made")
    parser.add_argument("--jobs", type=int, metavar="N", help="cells of --study at a time (one, or one a GPU)")
    parser.add_argument("--cell", type=int, metavar="I", help="train cell I of --study alone, counted from 1")
    parser.add_argument("--print-slurm", action="store_true", help="write the array job of --study for Slurm")
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


def _mode(arguments: argparse.Namespace) -> str:
    there_are = (*MODES, *WORDS, *NAMED)
    chosen = [mode for mode in there_are if getattr(arguments, mode.replace("-", "_"))]
    if not chosen:
        *most, last = (f"--{mode}" for mode in there_are)
        raise UsageError("nothing to do", remedy=f"Give {', '.join(most)} or {last}; see --help")
    return chosen[0]


def _flags(arguments: argparse.Namespace) -> tuple[list[str], list[Setting], list[str]]:
    """Return the parts, the settings and the remarks of the flags that were given."""
    parts: list[str] = []
    settings: list[Setting] = []
    remarks: list[str] = []
    implied: dict[str, Setting] = {}
    for row in FLAGS:
        value = getattr(arguments, row.flag[2:].replace("-", "_"))
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


def _expanded(path: str | None) -> str | None:
    """Return a path with ~ as the home folder, which no shell puts in behind `--output=`."""
    return None if path is None else os.path.expanduser(path)


def _override(text: str) -> Setting:
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
        raise UsageError("not an override", where=text, remedy="Write section.key=value, or put -- before flags")
    return Setting(key, reader.parse_value(value), "the command line")
