"""Odd scalars, wrong keys and settings that do not fit together give errors that say what to write."""

import json
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agmax.config import reader
from helpers.command import Answer
from helpers.configurations import config_of, errors_of, value_of

Run = Callable[..., Answer]

ODD_SCALARS: list[tuple[str, str, Any]] = [  # key, text, value (None: an error)
    ("optimizer.lr", "1e-4", 0.0001),
    ("optimizer.lr", "1E-4", 0.0001),
    ("optimizer.lr", ".5", 0.5),
    ("optimizer.lr", "+1.", 1.0),
    ("optimizer.lr", "2", 2.0),
    ("optimizer.lr", "010", None),
    ("optimizer.lr", "0x10", None),
    ("optimizer.lr", "1_000", None),
    ("optimizer.lr", "12:30", None),
    ("optimizer.lr", ".nan", None),
    ("optimizer.lr", ".inf", None),
    ("optimizer.lr", "1e400", None),
    ("optimizer.lr", "-0.1", None),
    ("optimizer.lr", "0", None),
    ("optimizer.lr", "true", None),
    ("optimizer.lr", "null", None),
    ("optimizer.lr", "'0.1'", None),
    ("optimizer.lr", "2026-01-01", None),
    ("train.epochs", "true", None),
    ("train.epochs", "1.5", None),
    ("train.epochs", "010", None),
    ("train.epochs", "9" * 5000, None),
    ("optimizer.nesterov", "True", True),
    ("optimizer.nesterov", "on", None),
    ("optimizer.nesterov", "no", None),
    ("optimizer.nesterov", "1", None),
    ("dataset.mean", "[1e-1, .2, 3]", [0.1, 0.2, 3.0]),
    ("dataset.mean", "[]", None),
    ("dataset.mean", "0.5", None),
]


@pytest.mark.parametrize(("key", "text", "wanted"), ODD_SCALARS, ids=lambda item: str(item)[:12])
def test_an_odd_scalar_is_the_number_it_looks_like_or_refused(
    key: str, text: str, wanted: Any, write: Callable[[str, str], str]
) -> None:
    section, word = key.split(".")
    path = write("mine.yaml", f"base: ResNet8\n{section}:\n  {word}: {text}\n")
    if wanted is None:
        [from_file] = errors_of(path)
        [from_override] = errors_of("ResNet8", f"{key}={text}")
        assert from_file.startswith(f"wrong value {key}=") and "mine.yaml:3" in from_file
        assert from_override.startswith(f"wrong value {key}=")
    else:
        assert value_of(config_of(path), key) == value_of(config_of("ResNet8", f"{key}={text}"), key) == wanted


@pytest.mark.parametrize("text", ["0.1", "1e-4", "7", "-3", "true", "null", "~", "text", "[1, 2]", "'5'", "''"])
def test_scalars_read_as_json_would_where_json_has_them(text: str) -> None:
    as_json = {"~": None, "text": "text", "'5'": "5", "''": ""}
    assert reader.parse_value(text) == (as_json[text] if text in as_json else json.loads(text))


def test_a_float_that_is_no_number_is_read_as_such_and_refused_later() -> None:
    assert math.isnan(reader.parse_value(".nan"))
    assert reader.parse_value("-.inf") == -math.inf


def test_a_duplicate_key_names_both_lines(write: Callable[[str, str], str]) -> None:
    path = write("mine.yaml", "base: ResNet8\ntrain:\n  epochs: 3\n  seed: 1\n  epochs: 4\ntrain:\n  seed: 2\n")
    assert errors_of(path) == [
        f"duplicate key train.epochs ({path}:5): first on line 3",
        f"duplicate key train ({path}:6): first on line 2",
    ]


def test_all_errors_are_reported_at_once_each_with_its_line(write: Callable[[str, str], str]) -> None:
    text = "base: ResNet8\noptimizer:\n  lrr: 0.1\n  momentum: 2\naugment: {mix: cutmx}\nmodle: {backbone: x}\n"
    path = write("mine.yaml", f"{text}schedule: 5\n")
    lines = errors_of(path, "train.epochs=0", "trian.epochs=3")
    assert {line.partition(": ")[0] for line in lines if "(" in line} == {
        f"unknown key optimizer.lrr ({path}:3). Did you mean 'optimizer.lr'?",
        f"wrong value optimizer.momentum=2 ({path}:4)",
        f"wrong value augment.mix='cutmx' ({path}:5)",
        f"unknown key modle.backbone ({path}:6). Did you mean 'model.backbone'?",
        f"wrong value for schedule ({path}:7)",
        "wrong value train.epochs=0 (test)",
        "unknown key trian.epochs (test). Did you mean 'train.epochs'?",
    }
    assert any("one of none, mixup, cutmix. Did you mean 'cutmix'?" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: ResNet8\noptimzer: {}\n", "unknown key optimzer (FILE:2). Did you mean"),
        ("base: ResNet8\noptimizer:\n  lr: {}\n", "wrong value optimizer.lr={} (FILE:3)"),
        (
            "base: ResNet8\noptimizer:\n  lr: {low: 1}\n",
            "unknown key optimizer.lr.low (FILE:3): optimizer.lr takes one value",
        ),
        ("base: ResNet8\noptimizer: [1]\n", "wrong value for optimizer (FILE:2): it is a section, not a value"),
        ("base: 5\n", "wrong value (FILE:1): base is 5, not a name"),
        ("base: ResNet8\nname: ../x\n", "not a configuration name (FILE:2)"),
        ("base: ResNet8\nname: ..\n", "not a configuration name (FILE:2)"),
        ("base: ResNet8\ndataset: {name: cifr10}\n", "unknown data set cifr10 (FILE:2). Did you mean 'cifar10'?"),
        ("base: ResNet8-cutmx\n", "unknown part 'cutmx' (ResNet8-cutmx). Did you mean 'cutmix'?"),
        ("- base: ResNet8\n", "configuration is not a mapping (FILE)"),
        ("just text\n", "configuration is not a mapping (FILE)"),
        ("base: ResNet8\ntrain:\n\tepochs: 3\n", "not valid YAML (FILE:3): found character '\\t'"),
        ("base: ResNet8\n---\nbase: ResNet8\n", "second document in YAML (FILE:2)"),
        ("base: [ResNet8\n", "not valid YAML (FILE:2)"),
        ("base: ResNet8\n? [a, b]\n: 1\n", "key is not a word (FILE:2)"),
        ("base: ResNet8\ndataset: {mean: [{[a]: 1}]}\n", "wrong value dataset.mean="),
        ("base: &x ResNet8\nname: *x\n", "anchor or alias in YAML (FILE:1)"),
        (
            "base: !!python/object/apply:os.system ['true']\n",
            "tag in YAML (FILE:1): tag:yaml.org,2002:python/object/apply:os",
        ),
        ("base: !!str ResNet8\n", "tag in YAML (FILE:1)"),
        ("base: !include x\n", "tag in YAML (FILE:1): !include is not supported"),
        ("base: \0\n", "not valid YAML (FILE)"),
        ("<<: {lr: 1}\nbase: ResNet8\n", "unknown key <<.lr (FILE:1)"),
    ],
)
def test_the_error_for_a_wrong_file_names_its_line(text: str, message: str, write: Callable[[str, str], str]) -> None:
    path = write("mine.yaml", text)
    assert errors_of(path)[0].startswith(message.replace("FILE", path))


@pytest.mark.parametrize("before", ["---\n", "# a comment\n---\n", "%YAML 1.2\n---\n", "\n\n"])
def test_a_single_document_may_be_marked_as_one(before: str, write: Callable[[str, str], str]) -> None:
    assert config_of(write("ResNet8.yaml", f"{before}base: ResNet8\n")).model == config_of("ResNet8").model


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xef\xbb\xbfbase: ResNet8\n", "byte-order mark in a configuration"),
        ("base: ResNet8\nname: ü\n".encode("latin-1"), "configuration is not UTF-8"),
        ("base: ResNet8\n".encode("utf-16"), "configuration is not UTF-8"),
        (b"# " + b"x" * 300_000, "configuration too large"),
        (b"base: ResNet8\nx: [" + b"1," * 100_000 + b"]", "configuration too large"),
        (b"a: 1\n" * 50_000, "configuration too large"),
        (b"x: " + b"[" * 10_000, "YAML nested too deeply"),
        (b"x: " + b"{a: " * 10_000, "YAML nested too deeply"),
        (b"- " * 10_000, "YAML nested too deeply"),
        (b"".join(b" " * depth + b"a:\n" for depth in range(400)), "YAML nested too deeply"),
        (b"a: &a [x]\n" + b"b: [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n" * 9, "anchor or alias in YAML"),
        (b"a: &a [*a]\n", "anchor or alias in YAML"),
    ],
    ids=[
        "BOM",
        "latin-1",
        "utf-16",
        "bytes",
        "values",
        "lines",
        "lists",
        "mappings",
        "dashes",
        "indent",
        "bomb",
        "cycle",
    ],
)
def test_a_file_that_is_not_plain_yaml_is_refused_before_it_is_parsed(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(raw)
    start, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    [line] = errors_of(str(path))
    assert line.startswith(f"{message} ({path}")
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200 * 1024  # KiB


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=5"],
        ["optimizer={lr: 0.1}"],
        ["model.arguments=5", "model.arguments.depth=2"],
        ["model.arguments.depth=1", "model.arguments.depth.more=2"],
        ["model.arguments={a: 1, a: 2}"],
        ["model.arguments.depth=[1]"],
        ["augment..mix=cutmix"],
        ["lr=0.1"],
        ["optimizer.lr=[1"],
        ["optimizer.lr=a: b: c"],
        ["optimizer.lr"],
        ["=5"],
        ["dataset.name=7"],
    ],
    ids=" ".join,
)
def test_an_override_that_fits_no_setting_is_refused(overrides: list[str], run: Run) -> None:
    answer = run("--config=ResNet8", "--print-config", *overrides)
    assert (answer.status, answer.out) == (2, "")
    assert all(line.startswith("error: ") for line in answer.err.splitlines())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.num_views=1"], "agmax needs at least 2 views. Write objective.num_views=2"),
        (["objective.name=agmax_kl", "objective.num_views=3"], "agmax_kl compares 2 views"),
        (["objective.name=js", "objective.num_views=1"], "js needs at least 2 views. Write objective.num_views=2"),
        (["objective.name=tied_features", "objective.num_views=3"], "tied_features compares 2 views"),
        (["optimizer.momentum=0"], "needs momentum. Write optimizer.nesterov=false or a momentum above 0"),
        (["dataset.mean=[0.5]"], "mean and std need 3 numbers each"),
        (["model.channels=1"], "a model with 1 channel cannot take color images. Write model.channels=3"),
        (["augment.random_resized.scale=[1, 0.5]"], "[1, 0.5] is not a range. Write the smaller first"),
        (["augment.random_resized.ratio=[2, 0.5]"], "[2, 0.5] is not a range. Write the smaller first"),
        (["augment.random_erasing.scale=[0, 0]"], "[0, 0] is not a range. Write the smaller first, the larger above 0"),
        (
            ["augment.pca_lighting.std=0.1", "dataset.name=digits"],
            "the images are gray. Write augment.pca_lighting.std=0",
        ),
        (["schedule.milestones=[20, 10]"], "write them in ascending order"),
        (
            ["augment.softening.reweight=batch_mean", "augment.softening.applies_to=target"],
            "views have no weights if only the targets soften. Write augment.softening.applies_to=target_and_weight",
        ),
        (["augment.softening.max_confidence=0.09"], "0.09 is below chance"),
        (["augment.weak_divisor=1e160"], "less than or equal to 1000000"),
        (["train.epochs=5", "schedule.warmup_epochs=5"], "5 epochs of warm-up leave no other epoch of 5"),
    ],
    ids=lambda item: item[-1] if isinstance(item, list) else "",
)
def test_settings_that_do_not_fit_each_other_say_what_to_write(overrides: list[str], message: str) -> None:
    assert any(message in line for line in errors_of("ResNet8-agmax", *overrides))
