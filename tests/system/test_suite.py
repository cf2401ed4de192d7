"""The suite itself: threads and warnings, whatever the environment and other plug-ins of pytest say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.places import REPOSITORY

PLUGIN = """
import warnings, torch
def pytest_configure():
    warnings.warn("of a plug-in")
"""

TESTS = """
import os, warnings, pytest, torch
def test_of_threads():
    assert torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"  # of programs that it starts
def test_of_a_warning():
    warnings.warn("in a test")
@pytest.mark.filterwarnings("ignore:in a test")
def test_of_an_exception_that_is_listed():
    warnings.warn("in a test")
"""


@pytest.mark.parametrize(("words", "ends"), [((), "1 failed, 2 passed"), (("-W", "default"), "3 passed")])
def test_a_warning_in_a_test_is_an_error_and_that_of_a_plug_in_is_shown(
    tmp_path: Path, words: tuple[str, ...], ends: str
) -> None:
    shutil.copy(REPOSITORY / "tests" / "conftest.py", tmp_path)
    (tmp_path / "plugin_with_torch.py").write_text(PLUGIN)
    (tmp_path / "test_some.py").write_text(TESTS)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}
    program = [sys.executable, "-m", "pytest", "-p", "plugin_with_torch", "-c", str(REPOSITORY / "pyproject.toml")]
    answer = subprocess.run(
        [*program, *words, str(tmp_path / "test_some.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ends in answer.stdout, answer.stdout + answer.stderr
    assert "UserWarning: of a plug-in" in answer.stderr
    assert ("FAILED" in answer.stdout) == ("failed" in ends) == ("E       UserWarning: in a test" in answer.stdout)
