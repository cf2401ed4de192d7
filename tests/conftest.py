"""Fixtures of all tests: one thread for each worker, and main() in a folder of its own."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the tests run side by side, one thread each

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agmax.experiments import environment
from helpers.command import Answer
from main import main


@pytest.fixture(scope="session", autouse=True)
def without_flushes_and_git() -> Iterator[None]:
    """Leave out what takes time at every checkpoint and in every run and is not looked at: disk flushes, git."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        patch.setattr(environment, "_commit", functools.cache(environment._commit))
        yield


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Call main() with words, in an empty folder; `run("--list", "--json").json`."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Answer:
        capsys.readouterr()
        try:
            status = main(list(words))
        except SystemExit as stop:  # argparse's own
            status = int(stop.code or 0)
        printed = capsys.readouterr()
        return Answer(status, printed.out, printed.err)

    return call
