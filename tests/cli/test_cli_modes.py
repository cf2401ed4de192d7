"""Modes: each has its function, its flags and its printed result."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agmax.cli import modes
from agmax.cli.commands import list as listing
from agmax.cli.commands import preview
from agmax.config import names
from agmax.experiments import export
from helpers.command import Answer

Run = Callable[..., Answer]


def test_a_training_started_as_several_processes_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun does: each process would train separately."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = run("--config=ResNet8", "--train", "--dataset=digits")
    assert answer.status == 2 and "started as several processes (torchrun)" in answer.err
    assert run("--config=ResNet8", "--print-config", "--dataset=digits").status == 0


def test_every_mode_and_every_word_of_one_has_its_function() -> None:
    folder = Path(listing.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__", "shared"} == {
        mode.module.rpartition(".")[2] for mode in modes.MODES.values()
    }
    assert all(callable(importlib.import_module(mode.module).run) for mode in modes.MODES.values())
    assert set(modes.MODES["list"].words) == set(listing.LISTINGS)
    assert set(modes.MODES["preview"].words) == set(preview.PREVIEWS)
    assert set(modes.MODES["export"].words) == set(export.FORMATS)


def test_every_option_of_a_mode_is_in_the_table_and_belongs_to_a_mode() -> None:
    named = [option for mode in modes.MODES.values() for option in mode.options]
    assert set(named) == set(modes.OPTIONS)


@pytest.mark.parametrize("words", [[], ["--config=ResNet8"], ["--json"], ["--resume"], ["optimizer.lr=0.1"]])
def test_without_a_mode_there_is_nothing_to_do(words: list[str], run: Run) -> None:
    answer = run(*words)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: nothing to do. Give --train, --eval, --print-config")


def test_two_modes_are_refused(run: Run) -> None:
    answer = run("--train", "--eval", "--config=ResNet8")
    assert answer.status == 2
    assert answer.err.count("\n") == 1


def test_print_config_needs_a_configuration(run: Run) -> None:
    assert run("--print-config").err == "error: no configuration. Give --config NAME; see --list\n"


FIRST_AND_SOME = {
    "configs": ["ResNet50-auto_augment-cutmix-agmax", "RegNetX002-cutmix-agmax", "WideResNet40-2-standard"],
    "parts": ["ResNet8", "WideResNet28-10", "cutmix", "no_basic_augment", "agmax_mse"],
    "models": ["resnet50", "regnety_004", "efficientnet_b1", "agmax_wide_resnet", "agmax_resnet8"],
    "datasets": ["digits", "fashion_mnist", "cifar10", "imagenet-v2", "svhn-core"],
}


@pytest.mark.parametrize("what", modes.MODES["list"].words)
def test_each_list_is_printed_for_people_and_as_json(what: str, run: Run) -> None:
    as_text, as_json = run("--list", what), run("--list", what, "--json").json
    assert set(as_json) == {"mode", what}
    assert [line.split()[0] for line in as_text.out.splitlines()] == list(as_json[what])
    assert set(FIRST_AND_SOME[what]) <= set(as_json[what])


def test_list_alone_lists_the_configurations_and_refuses_another_word(run: Run) -> None:
    assert run("--list").out == run("--list", "configs").out
    answer = run("--list=recipes")
    assert answer.status == 2
    assert "invalid choice: 'recipes'" in answer.err


def test_each_part_of_the_list_is_described(run: Run) -> None:
    parts = run("--list=parts", "--json").json["parts"]
    assert all(
        text.split(": ")[0] in ("model", "augment", "method") and text.split(": ", 1)[1] for text in parts.values()
    )
    assert len(parts) == sum(len(names.files(group)) for group in ("model", "augment", "method"))


def test_json_is_alone_on_stdout_and_notes_are_on_stderr(run: Run) -> None:
    answer = run("--print-config", "--json", "--config=agmax-ResNet8", "--save")
    assert json.loads(answer.out)["name"] == "ResNet8-standard-agmax"
    assert answer.out.count("\n") == 1
    assert [line.partition(": ")[0] for line in answer.err.splitlines()] == ["note", "note"]


def test_debug_shows_where_an_error_came_from(run: Run) -> None:
    quiet, loud = (run("--config=x", "--print-config", *more).err for more in ([], ["--debug"]))
    assert "Traceback" not in quiet
    assert loud.startswith("Traceback") and loud.endswith(quiet)
