"""The suite itself: threads and warnings, whatever the environment and other plug-ins of pytest say."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import processes
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


def test_code_that_takes_too_long_fails_its_test_and_is_ended_with_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.run_code("", folder=tmp_path)  # the server that it is forked from has started
    monkeypatch.setattr(processes, "CODE_SECONDS", 2)
    code = "import os, signal, sys, time; os.fork() or signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    code += "open(str(os.getpid()), 'w'); print('waiting', file=sys.stderr, flush=True); time.sleep(60)"
    with pytest.raises(AssertionError, match=r"not ended after 2 s: waiting"):
        processes.run_code(code, folder=tmp_path)
    started = [int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()]
    assert len(started) == 2
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_text() for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.01)
