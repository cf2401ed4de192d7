"""Study files of one test; studies that are finished, and trainings that stand in for others."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agmax.cli.commands import study as study_command
from helpers.command import Answer
from helpers.studies import TINY, InThisProcess, Untrained, make_up, stand_in
from main import main

Call = Callable[..., Answer]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a study file and return its path."""

    def to(text: str) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return to


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished study: tiny.yaml, results/, runs/; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_command, "report", lambda said, folder: [])
        patch.chdir(folder)
        stand_in(patch, InThisProcess)
        assert main(["--study", "./tiny.yaml"]) == 0
    return folder


@pytest.fixture(autouse=True)
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, which takes seconds."""
    monkeypatch.setattr(study_command, "report", lambda said, folder: [])


@pytest.fixture
def copy(finished: Path, tmp_path: Path, run: Call) -> Path:
    """Copy the finished study to the folder of this test."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train runs in this process, and count them."""
    return stand_in(monkeypatch, InThisProcess)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no run be trained."""
    stand_in(monkeypatch, Untrained)


@pytest.fixture
def made_up(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make up the results of runs, and count them."""
    return make_up(monkeypatch, finished)
