"""Trainings on full, read-only, vanished and simple file systems: one line, exit code 6, and nothing saved is lost."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agmax.training import checkpoint_folder
from agmax.training.checkpoint_folder import CheckpointFolder
from agmax.training.loop import Trainer
from helpers.command import Answer
from helpers.places import REPOSITORY, skip_or_fail
from helpers.processes import run_code
from helpers.training import TINY, assert_same_weights, loss_log
from main import main

Run = Callable[..., Answer]
WORDS = ("--config=ResNet8-cutmix-agmax", *TINY, "--train")
FOLDER = Path("runs/ResNet8-cutmix-agmax/digits-s0")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on a good disk."""
    folder = tmp_path_factory.mktemp("quiet")
    assert main([*WORDS, f"train.runs_dir={folder}"]) == 0
    return folder / FOLDER.relative_to("runs")


def assert_same_run(folder: Path, quiet: Path) -> None:
    assert loss_log(folder) == loss_log(quiet)
    last = "checkpoints/step-00000012.pth"
    assert_same_weights(folder / last, quiet / last)
    assert json.loads((folder / "state.json").read_text())["state"] == "finished"


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    """Call a function before a training performs a step."""
    original = Trainer.train_step

    def acting(trainer: Trainer, raw: Any) -> Any:
        if trainer.step == step:
            act()
        return original(trainer, raw)

    monkeypatch.setattr(Trainer, "train_step", acting)
    monkeypatch.setattr(checkpoint_folder, "RETRY_SECONDS", 0.0)


def test_a_run_folder_that_vanishes_in_a_training_ends_it_and_can_come_back(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda: FOLDER.rename("away"))
        answer = run(*WORDS, "train.fallback_dir=elsewhere")
    error = answer.err.splitlines()[-1]
    assert answer.status == 6 and "step-00000008.pth): its folder does not exist. The state after step 8 is in" in error
    assert not FOLDER.exists()
    Path("away").rename(FOLDER)
    assert [path.name for path in CheckpointFolder(FOLDER / "checkpoints").list_checkpoints()] == ["step-00000004.pth"]
    words = ("--train", "--resume", str(FOLDER), "train.fallback_dir=elsewhere")
    with monkeypatch.context() as patch:
        at_step(patch, 8, lambda: os.kill(os.getpid(), signal.SIGINT))
        answer = run(*words)
    assert answer.status == 130 and "continuing after step 8 of 12, from elsewhere/" in answer.err
    assert (FOLDER / "checkpoints" / "step-00000008.pth").exists()  # saved there before the first step
    assert run(*words).status == 0
    assert_same_run(FOLDER, quiet)
    assert list(Path("elsewhere").rglob("*.pth")) == []


def test_a_limit_of_file_sizes_is_named_and_the_previous_checkpoint_is_whole(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1])))
        try:
            answer = run(*WORDS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = answer.err.splitlines()[-1]
    assert answer.status == 6 and "File too large, the limit is 100,000 bytes. Raise it (ulimit -f)" in error
    assert error.endswith(f"The newest checkpoint is {FOLDER}/checkpoints/step-00000004.pth")
    state = json.loads((FOLDER / "state.json").read_text())
    assert state["exit_code"] == 6 and f"error: {state['reason']}" == error
    assert run(*WORDS, "--resume", "auto").status == 0
    assert_same_run(FOLDER, quiet)


def test_a_disk_that_is_too_small_is_named_before_the_first_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    at_step(monkeypatch, 0, pytest.fail)
    answer = run(*WORDS)
    assert answer.status == 6 and "and the best need 1.9 MiB, 1.0 MiB are free. Free space, or set" in answer.err


def test_a_fallback_that_cannot_be_written_is_named_at_the_start(run: Run) -> None:
    Path("file").touch()
    answer = run(*WORDS, "train.fallback_dir=file/a")
    assert answer.status == 6 and "Set train.fallback_dir to a folder you can write" in answer.err
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


ON_SMALL_DISKS = """
import json, subprocess, sys
from agmax.training import checkpoint_folder
from agmax.training.loop import Trainer
from main import main
checkpoint_folder.RETRY_SECONDS = 0.0
words = sys.argv[1:]
def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)
def train(folder, *more):
    code = main([*words, f"train.runs_dir={folder}", *more])
    with open(f"{folder}/ResNet8-cutmix-agmax/digits-s0/state.json") as file:
        assert json.load(file).get("exit_code") == code or folder == "sealed"
    print(folder, code, file=sys.stderr)
for folder, size in (("tiny", "300k"), ("small", "1m"), ("medium", "2m"), ("large", "2500k")):
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    train(folder)
mount("-o", "remount,size=4m", "medium")
train("medium", "--resume=auto")
original = Trainer.train_step
def sealing(trainer, raw):
    if trainer.step == 6:  # the open files stay writable, as a mount with open files cannot be changed
        mount("--bind", "sealed", "sealed")
        mount("-o", "remount,ro,bind", "sealed")
    return original(trainer, raw)
Trainer.train_step = sealing
train("sealed")
Trainer.train_step = original
subprocess.run(["umount", "sealed"], check=True)
train("sealed", "--resume=auto")
for folder in ("medium", "large", "sealed"):
    subprocess.run(["cp", "-r", folder, f"{folder}-copy"], check=True)
"""


def test_on_small_and_read_only_disks_a_training_ends_with_6_and_goes_on_when_it_can(
    tmp_path: Path, quiet: Path
) -> None:
    for name in ("tiny", "small", "medium", "large", "sealed"):
        (tmp_path / name).mkdir()
    done = run_code(ON_SMALL_DISKS, *WORDS, folder=tmp_path, mounts=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    codes = [line for line in lines if len(line.split()) == 2 and line.split()[0] in os.listdir(tmp_path)]
    assert codes == ["tiny 6", "small 6", "medium 6", "large 0", "medium 0", "sealed 6", "sealed 0"]
    tiny, small, medium, sealed = (line for line in lines if line.startswith("error: "))
    assert "the newest two checkpoints and the best need 1.9 MiB, 0.3 MiB are free" in tiny
    assert "the newest two checkpoints and the best need 1.9 MiB, 1.0 MiB are free" in small
    assert medium.startswith("error: disk full (medium/") and "No space left on device, 0.0 MiB are free" in medium
    assert medium.endswith(
        "The newest checkpoint is medium/ResNet8-cutmix-agmax/digits-s0/checkpoints/step-00000004.pth"
    )
    assert "sealed/ResNet8-cutmix-agmax/digits-s0/checkpoints/step-00000008.pth): Read-only file system" in sealed
    for name in ("medium", "large", "sealed"):
        assert_same_run(tmp_path / f"{name}-copy" / FOLDER.relative_to("runs"), quiet)


WITHOUT_LOCKS = """
#define _GNU_SOURCE
#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
int flock(int file, int how) { errno = ENOLCK; return -1; }
int fsync(int file) {
    struct stat status;
    if (fstat(file, &status) == 0 && S_ISDIR(status.st_mode)) { errno = EINVAL; return -1; }
    return syscall(SYS_fsync, file);
}
"""

KILLED_THEN_RESUMED = """
import os, signal, sys
from agmax.training.loop import Trainer
from main import main
original = Trainer.train_step
def dying(trainer, raw):
    if trainer.step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(trainer, raw)
child = os.fork()
if child == 0:
    Trainer.train_step = dying
    main(sys.argv[1:])
assert os.waitpid(child, 0)[1] == signal.SIGKILL
assert os.path.islink("runs/ResNet8-cutmix-agmax/digits-s0/..lock.owner")
sys.exit(main([*sys.argv[1:], "--resume", "auto"]))
"""


def test_without_locks_and_without_syncing_of_folders_a_killed_training_goes_on_at_once(
    tmp_path: Path, quiet: Path
) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        skip_or_fail("needs a C compiler (cc)")
    (tmp_path / "shim.c").write_text(WITHOUT_LOCKS)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "shim.so", "shim.c"], check=True, cwd=tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_THEN_RESUMED, *WORDS],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "LD_PRELOAD": str(tmp_path / "shim.so")},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("has no locks") == 2  # once in each process
    assert_same_run(tmp_path / FOLDER, quiet)
    assert [path.name for path in (tmp_path / FOLDER).glob("*.owner")] == []
