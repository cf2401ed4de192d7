"""Translate commands of the Soft Augmentation program (its cifar/train.py) to commands of this program."""

import argparse
import math
import shlex
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

from agmax.config import reader, resolve
from agmax.config.resolve import Setting
from agmax.core.errors import UsageError

EQUIVALENTS = {
    "--task": "--dataset=NAME",
    "--net": "the first part of --config",
    "--da": "a part of --config, soft_crop, wide_crop or cutout",
    "--ra": "the part rand_augment of --config",
    "--loss": "a part of --config, soft_crop, focal or label_smoothing_others",
    "--pcrop": "augment.softening.power=POWER",
    "--crop": "augment.soft.sigma=FRACTION_OF_THE_SIDE",
}
"""Flags that identify its command lines (`--crop` only before a number), and their equivalents here."""

NETWORKS = {
    "resnet18": "CifarResNet18",
    "resnet50": "CifarResNet50",
    "resnet101": "CifarResNet101",
    "wideresnet28": "CifarWideResNet28-10",
    "pyramid272": "PyramidNet272",
    "pyramidnet272": "PyramidNet272",
}
SIDE = 32
"""Image size of CIFAR in pixels; offsets and lengths of that program are in pixels."""


def refuse(argv: Sequence[str]) -> None:
    """Refuse a command line of that program, with its equivalent here.

    Raises:
        UsageError: the command line has a flag of that program.
    """
    flags = [
        flag
        for word, following in pairwise([*argv, ""])
        for flag, equals, _ in [word.partition("=")]
        if flag in EQUIVALENTS and (flag != "--crop" or equals or following.replace(".", "", 1).isdigit())
    ]
    if not flags:
        return
    flags = list(dict.fromkeys(flags))
    why = "they are flags of the Soft Augmentation program, whose recipes are configurations here"
    if any(word.partition("=")[0] in ("--config", "--dataset") for word in argv):
        remedy = f"Here {'; '.join(f'{flag} is {EQUIVALENTS[flag]}' for flag in flags)}"
    else:
        remedy = f"Type: {command(argv)}"
        if "soft_crop" in remedy:
            remedy += "; add augment.softening.reweight=batch_mean for the weights of that program"
        ignored = _parser().parse_known_args(list(argv))[1]
        if ignored:
            remedy += f"; left out: {shlex.join(ignored)}"
    raise UsageError("flags not supported", where=", ".join(flags), why=why, remedy=remedy)


def command(argv: Sequence[str]) -> str:
    """Return the command of this program for the training that a command line of that program intends.

    Results differ where that program's code does something else than intended; docs/differences.md lists these cases.

    Raises:
        UsageError: that program cannot train it, this program does not support it, or a value is out of range.
    """
    old, _ = _parser().parse_known_args(list(argv))
    epochs = int(200 * old.sch) if math.isfinite(old.sch) else 0
    if epochs < 1:
        why = "that program trains int(200 * sch) epochs, which is 0"
        raise UsageError("wrong value", where=f"--sch={old.sch:g}", why=why)
    if old.other:
        why = "that program's class for the missing probability is broken"
        raise UsageError("flag not supported", where="--other", why=why)
    parts = [NETWORKS[old.net], *_crop(old)]
    settings = _settings(old, epochs)
    if old.ra:
        parts.append("rand_augment")
    if old.mixup:
        parts.append("mixup")
        settings.append(f"augment.mixup.alpha={_as_words(old.a)}")
    if old.loss == "fl":
        parts.append("focal")
        settings += [f"objective.focal_gamma={_as_words(old.g)}"] if old.g != 2 else []
    if old.loss == "sce":
        parts.append("label_smoothing_others")
        settings.append(f"objective.label_smoothing={_as_words(round(1 - old.max_p, 12))}")
    name = "-".join(parts if len(parts) > 1 else [*parts, "standard"])
    words = ["python3 main.py", f"--config={name}", "--train", f"--dataset={old.task}"]
    words += [f"--epochs={epochs}"] if epochs != 500 else []
    typed = [text.partition("=") for text in settings]
    requested = [Setting(key, reader.parse_value(value), "Soft Augmentation's flags") for key, _, value in typed]
    resolve.resolve(name, dataset=old.task, settings=requested)  # raises errors of this program
    return " ".join([*words, *map(shlex.quote, settings)])


def _crop(old: argparse.Namespace) -> list[str]:
    """Return the part for its `--da`: 2 is the soft crop, whose targets soften only with the loss `st`."""
    if old.da == 2:
        return ["soft_crop" if old.loss == "st" else "wide_crop"]
    if old.da == 1 and old.l > 0:
        return ["cutout"]
    return ["no_basic_augment"] if old.da == -1 else []


def _settings(old: argparse.Namespace, epochs: int) -> list[str]:
    """Return the settings that differ from its recipes."""
    is_soft = old.da == 2 and old.loss == "st"
    has_weak_epochs = old.da == 2 or (old.da == 1 and old.l > 0) or bool(old.mixup)
    num_weak = min(max(old.ft, 0), int(0.95 * epochs))
    rows = [
        (old.da == 2, "augment.soft.sigma", old.crop / SIDE, 12 / SIDE),
        (old.da == 2, "augment.soft.background", old.bgcrop, 0.01),
        (is_soft, "augment.softening.power", old.pcrop, 2),
        (is_soft, "augment.softening.max_confidence", old.max_p, 1),
        (is_soft and old.no_soften, "augment.softening.applies_to", "weight", None),
        (old.da == 1 and old.l > 0, "augment.cutout.size", old.l / SIDE, 0.5),
        (has_weak_epochs, "augment.weak_fraction", num_weak / epochs, 0.04 if is_soft else 0),
        (has_weak_epochs, "augment.weak_divisor", old.r, 1000),
        (True, "train.batch_size", old.b, 128),
        (True, "optimizer.lr", old.lr, 0.1),
        (True, "optimizer.momentum", old.momentum, 0.9),
        (True, "optimizer.weight_decay", old.wd, 5e-4),
        (old.no_nag, "optimizer.nesterov", "false", None),
        (old.decay == "l", "schedule.name", "linear", None),
        (old.decay == "s", "schedule.name", "multistep", None),
        (old.decay == "s", "schedule.interval", "epoch", None),
        (old.decay == "s", "schedule.milestones", _milestones(old.sch), None),
        (old.decay == "s", "schedule.gamma", old.gamma, 0.1),
        (old.seed >= 0, "train.seed", old.seed, 0),
    ]
    return [f"{key}={_as_words(value)}" for is_used, key, value, recipe in rows if is_used and value != recipe]


def _as_words(value: float | str) -> str:
    """Format a value as YAML; whole numbers without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _milestones(scale: float) -> str:
    return f"[{','.join(str(int(epoch * scale)) for epoch in (100, 150, 180))}]"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError("wrong command line of the Soft Augmentation program", why=message)


def _parser() -> argparse.ArgumentParser:
    """Return a parser of the flags that determine a training there; its other flags do not affect the result."""
    parser = _Parser(allow_abbrev=False, add_help=False)
    parser.add_argument("--task", default="cifar10", choices=("cifar10", "cifar100"))
    parser.add_argument("--net", default="resnet18", choices=tuple(NETWORKS))
    parser.add_argument("--loss", default="ce", choices=("ce", "st", "sce", "fl"))
    parser.add_argument("--decay", default="c", choices=("c", "l", "s"))
    parser.add_argument("--optimizer", default="sgd", choices=("sgd",))
    parser.add_argument("--da", type=int, default=0, choices=(-1, 0, 1, 2))
    for flag, default in (("--seed", -1), ("--b", 128), ("--ra", 0), ("--mixup", 0), ("--ft", 20)):
        parser.add_argument(flag, type=int, default=default)
    numbers = {"lr": 0.1, "momentum": 0.9, "gamma": 0.2, "wd": 5e-4, "crop": 12, "pcrop": 2, "bgcrop": 0.01, "l": 0}
    for name, number in (numbers | {"max_p": 1, "g": 2, "sch": 2.5, "a": 1, "r": 1000}).items():
        parser.add_argument(f"--{name}", type=float, default=number)
    for name in ("no-nag", "no-soften", "other"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser
