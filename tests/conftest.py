"""What all tests have: one thread for each worker, warnings as errors, and main() in a folder of its own."""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # for the programs that tests start: they run side by side, one thread each

import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from agmax.core.signals import STOP_SIGNALS
from agmax.experiments import environment
from helpers.command import Answer
from main import main

for _number in STOP_SIGNALS:  # as in a terminal, also where the tests run under nohup or behind an &
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

torch.set_num_threads(1)  # a plug-in of pytest may have imported torch before the environment was set


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Make warnings errors while a test runs; those of plug-ins before and after are shown. -W is obeyed."""
    if not config.getoption("pythonwarnings"):
        for item in items:
            item.add_marker(pytest.mark.filterwarnings("error"), append=False)


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
