"""The commands that start this program and continue a training."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agmax.config import names
from agmax.experiments.environment import continue_command, program
from helpers.places import REPOSITORY

RUN = Path("my runs/it's a run")
END = """ --train --resume 'my runs/it'"'"'s a run'"""


def test_the_command_that_starts_a_run_starts_this_program() -> None:
    ran = subprocess.run([*program(), "--list", "datasets"], capture_output=True, text=True, check=True)
    assert "digits" in ran.stdout


def test_a_training_is_continued_by_main_py_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert continue_command(RUN) == f"python3 main.py{END}"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").write_text("")  # another program
    assert continue_command(RUN) == shlex.join([sys.executable, str(REPOSITORY / "main.py")]) + END


def test_a_training_of_an_installed_program_is_continued_by_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "PACKAGE", tmp_path / "agmax")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert continue_command(RUN) == shlex.join([sys.executable, "-m", "agmax"]) + END
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "agmax").touch(mode=0o755)
    assert continue_command(RUN) == f"agmax{END}"
