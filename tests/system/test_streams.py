"""stdin, stdout and stderr that are closed, full or without a reader: a training goes on, a lost result is said."""

import json
import os
import pty
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agmax.core import logs, streams
from agmax.core.errors import AgmaxError
from helpers.command import Answer
from helpers.places import REPOSITORY
from helpers.processes import Process
from helpers.training import TINY

Run = Callable[..., Answer]
WORDS = ("--config=ResNet8-cutmix-agmax", *TINY, "--train")
FOLDER = Path("runs/ResNet8-cutmix-agmax/digits-s0")
REMEDY = "Redirect it to where there is space; a training's result is in its run folder"
CLOSED = f"error: cannot print the result (stdout): it is closed. {REMEDY}\n"
FULL = f"error: cannot print the result (stdout): No space left on device. {REMEDY}\n"


def shell(redirection: str, *words: str, folder: Path = REPOSITORY) -> tuple[int, str, str]:
    """Run main.py under a redirection of the shell; return its exit code, stdout and stderr."""
    script = f'exec "$@" {redirection}'
    program = ["sh", "-c", script, "sh", sys.executable, str(REPOSITORY / "main.py"), *words]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def assert_is_whole(folder: Path, *, steps: int = 12) -> None:
    """Check that a training has ended, and that its log has every line."""
    lines = (folder / "train.log").read_text().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch ")] == ["1/3", "2/3", "3/3"]
    assert lines[-1] == f"checkpoint {FOLDER}/checkpoints/step-{steps:08d}.pth"
    assert json.loads((folder / "state.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(
    ("redirection", "words", "code", "said"),
    [
        (">&-", ["--list", "--json"], 6, CLOSED),
        (">/dev/full", ["--list"], 6, FULL),
        (">/dev/full", ["--help"], 6, FULL),
        (">/dev/full", ["--list", "nothing"], 2, "error: wrong command line: argument --list"),
        ("<&- 2>&-", ["--list", "--json"], 0, ""),
        ("2>&-", ["--list", "nothing"], 2, ""),
        ("2>/dev/full", ["--list", "nothing"], 2, ""),
        ("<&- >&- 2>&-", ["--list"], 6, ""),
    ],
)
def test_a_result_that_cannot_be_printed_is_said_and_a_closed_stderr_is_no_fault(
    redirection: str, words: list[str], code: int, said: str
) -> None:
    status, out, err = shell(redirection, *words)
    assert (status, err.count("\n")) == (code, 1 if said else 0) and err.startswith(said)
    if code == 0:
        assert json.loads(out)["mode"] == "list"


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("sys.exit(0)", "agmax.core.errors.OutputError: cannot print the result (stdout): No space left on device"),
        ("raise ValueError('first')", "ValueError: first"),
    ],
)
def test_lost_output_is_an_error_unless_another_came_first(end: str, error: str) -> None:
    code = (
        f"import sys; from agmax.core import streams; streams.prepare()\nwith streams.write_stdout(): print(1); {end}"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >/dev/full', "sh", sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(error)


def test_a_training_needs_none_of_its_streams(tmp_path: Path) -> None:
    assert shell("<&- >&- 2>&-", *WORDS, folder=tmp_path) == (0, "", "")
    assert_is_whole(tmp_path / FOLDER)


def test_a_file_opened_later_does_not_get_the_number_of_a_closed_stream() -> None:
    code = "from agmax.core import streams; streams.prepare(); print(open('main.py').fileno(), file=open(9, 'w'))"
    code += "; import os; os.write(2, b'x'); assert os.get_inheritable(0) and os.get_inheritable(2)"
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        program = ["sh", "-c", f'exec "$@" 9>&1 {closed}', "sh", sys.executable, "-c", code]
        done = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True)
        assert (done.returncode, int(done.stdout) > 2) == (0, True), done.stderr


def test_a_result_on_a_full_stdout_is_lost_but_not_the_training(tmp_path: Path) -> None:
    assert Process((*WORDS, "--json"), tmp_path, streams=(os.devnull, "/dev/full", "stderr")).wait() == 6
    assert (tmp_path / "stderr").read_text().endswith(FULL)
    assert_is_whole(tmp_path / FOLDER)


@pytest.mark.parametrize("reads_all", [True, False])
def test_a_stdout_that_does_not_block_is_waited_for(reads_all: bool) -> None:
    """As a terminal or pipe that another program has set so; a pipe takes 64 KiB at once."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    received: list[bytes] = []

    def read_late() -> None:
        time.sleep(0.1)
        while reads_all and (part := os.read(reader, 50_000)):
            received.append(part)
        os.close(reader)

    thread = threading.Thread(target=read_late)
    thread.start()
    text = "0123456789" * 30_000
    try:
        with streams._text(streams._Stdout(writer, "w", closefd=False), sys.__stdout__) as stdout:
            stdout.write(text)
    except AgmaxError as error:
        assert not reads_all and error.exit_code == streams.NoReaderError.exit_code
    finally:
        os.close(writer)
        thread.join()
    assert b"".join(received) == (text.encode() if reads_all else b"")


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_reader_of_stderr_that_leaves_does_not_end_a_training(tmp_path: Path, kind: str) -> None:
    """With a pipe as `2>&1 | head -5`; with a terminal, which shows progress bars, as a connection that breaks.

    An imported file writes to stdout and warns in every step, as a library may.
    """
    (tmp_path / "noisy.py").write_text(NOISY)
    if kind == "pipe":
        os.mkfifo(name := str(tmp_path / "pipe"))
        reader, terminal = os.open(name, os.O_RDONLY | os.O_NONBLOCK), os.open(name, os.O_WRONLY)
        os.set_blocking(reader, True)
    else:
        reader, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (24, 80))
        name = os.ttyname(terminal)
    process = Process((*WORDS, "--import=noisy.py"), tmp_path, streams=(os.devnull, name, name))
    shown = os.read(reader, 1)  # from now on the process has the other end open
    os.close(terminal)
    while b"step 2" not in shown:
        part = os.read(reader, 100)
        assert part, shown
        shown += part
    os.close(reader)
    assert kind == "pipe" or b"epoch 1/3:" in shown  # the bar
    assert process.wait() == 0
    assert (tmp_path / "noise").read_text() == "12"
    assert_is_whole(tmp_path / FOLDER)


NOISY = """
import sys, warnings
from pathlib import Path
from agmax.training.loop import Trainer
original, calls = Trainer.train_step, []
def noisy(trainer, raw):
    calls.append(1)
    print("step", len(calls), flush=True)
    warnings.warn(f"noise {len(calls)}")
    Path("noise").write_text(str(len(calls)))
    return original(trainer, raw)
Trainer.train_step = noisy
"""


def test_without_a_terminal_the_log_has_lines_and_no_progress_bar(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "0")
    answer = run(*WORDS, "train.log_every_steps=2")
    assert answer.status == 0 and "\r" not in answer.err and "%|" not in answer.err
    steps = [line for line in answer.err.splitlines() if " step " in line]
    assert steps == [f"epoch {epoch}/3 step {step}/4" for epoch in (1, 2, 3) for step in (2, 4)]


def test_a_log_that_cannot_be_written_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.to_stderr()
    with logs.to_file(Path("/dev/full")):
        for number in range(3):
            logs.log.info("line %d", number)
    warning = "warning: cannot write the log (/dev/full): No space left on device"
    assert capsys.readouterr().err.splitlines() == ["line 0", warning, "line 1", "line 2"]
