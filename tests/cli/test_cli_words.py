"""Overrides, the order of words, and words that are not understood."""

from collections.abc import Callable

import pytest

from agmax.cli import parser
from helpers.command import Answer
from helpers.command_line import printed

Run = Callable[..., Answer]


def test_an_override_wins_over_a_flag_and_an_explicit_flag_over_an_implied_value(run: Run) -> None:
    assert printed(run, "--config=ResNet8", "optimizer.lr=0.5", "--lr=0.4")["optimizer.lr"] == 0.5
    for words in (["--cosinelr", "--warmup-epochs=3"], ["--warmup-epochs=3", "--cosinelr"]):
        assert printed(run, "--config=ResNet50", *words)["schedule.warmup_epochs"] == 3


def test_overrides_and_flags_may_be_in_any_order(run: Run) -> None:
    mixed = ["optimizer.lr=0.2", "--config", "ResNet8", "train.epochs=3", "--dataset", "digits", "model.dropout=0.1"]
    sorted_words = ["--config=ResNet8", "--dataset=digits", "optimizer.lr=0.2", "train.epochs=3", "model.dropout=0.1"]
    assert printed(run, *mixed) == printed(run, *sorted_words)


def test_a_resume_value_of_the_form_of_a_setting_is_an_override() -> None:
    request = parser.parse(["--train", "--resume", "train.epochs=5", "optimizer.lr=0.2"])
    assert request.config_request.resume == ""
    assert [(setting.key, setting.value) for setting in request.config_request.settings] == [
        ("train.epochs", 5),
        ("optimizer.lr", 0.2),
    ]


@pytest.mark.parametrize(
    "value", ["runs/a/b", "imagenet-agmax-79.12-mlp-2048.pth", "model.pth", "a=b.pth", "dir.d/x=1.pth"]
)
def test_any_other_resume_value_is_a_checkpoint_or_run(value: str) -> None:
    assert parser.parse(["--eval", "--resume", value]).config_request.resume == value


@pytest.mark.parametrize(("mode", "word"), [("--list", "configs"), ("--preview", "batch")])
def test_a_mode_without_its_word_does_not_read_an_override_as_one(mode: str, word: str) -> None:
    request = parser.parse(["--config=ResNet8", mode, "train.epochs=5"])
    assert (request.mode, request.options["word"]) == (mode[2:], word)
    assert [(setting.key, setting.value) for setting in request.config_request.settings] == [("train.epochs", 5)]


def test_resume_without_value_is_the_newest_run_and_none_is_none() -> None:
    assert parser.parse(["--train", "--resume"]).config_request.resume == ""
    assert parser.parse(["--train"]).config_request.resume is None


@pytest.mark.parametrize("word", ["--conf=ResNet8", "--epoch=3", "--agmax-m", "--print", "--frobnicate", "-x"])
def test_abbreviated_and_unknown_flags_are_refused_in_one_line(word: str, run: Run) -> None:
    answer = run("--config=ResNet8", "--print-config", word)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ") and word in answer.err and answer.err.count("\n") == 1


@pytest.mark.parametrize("mode", ["--print-config", "--summary", "--list", "--preview"])
def test_what_a_mode_does_not_support_is_refused(mode: str, run: Run) -> None:
    for flag in ("--resume", "--n-runs=2", "--split=train", "--predictions=x.npz"):
        answer = run("--config=ResNet8", mode, flag)
        assert answer.status == 2
        assert "flag not supported" in answer.err


def test_a_misspelt_flag_is_refused_with_the_nearest_name(run: Run) -> None:
    assert "Did you mean '--batch-size'?" in run("--config=ResNet8", "--print-config", "--bathc-size=4").err


def test_a_tilde_is_expanded_where_the_shell_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    words = ["--eval", "--resume", "x.pth", "--output=~/seen.png", "--predictions=~/p.npz"]
    options = parser.parse(words).options
    assert options["output"] == "/home/me/seen.png" and options["predictions"] == "/home/me/p.npz"


@pytest.mark.parametrize("flag", ["--config", "--dataset", "--predictions", "--weights-dir", "--lr"])
def test_a_flag_whose_value_is_two_dashes_has_none(flag: str, run: Run) -> None:
    answer = run("--print-config", "--cutmix", f"{flag}=--")
    assert answer.status == 2
    assert answer.err == f"error: wrong command line: {flag} has no value. See --help\n"
