"""Trainings with workers where memory, files or workers fail: one line, exit code 8, nothing lost."""

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agmax.data import from_files, workers
from agmax.training.checkpoint_folder import CheckpointFolder
from agmax.training.loop import Trainer
from helpers.command import Answer
from helpers.images import write_tree
from helpers.processes import Process, run_code, steps_of
from helpers.training import assert_same_weights, loss_log

Run = Callable[..., Answer]

WORDS = (
    "--config=ResNet8-agmax",
    "--train",
    "--dataset=folder",
    "dataset.root=data",
    "dataset.image_size=8",
    "train.batch_size=4",
    "train.epochs=3",
    "train.num_workers=2",
    "augment.crop=random_resized",
)
"""Three epochs of two steps on eight images."""

FOLDER = Path("runs/ResNet8-standard-agmax/folder-s0")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "data", ["a", "b"], {"train": 4, "val": 1}, size=(12, 12))


TRAIN_THEN_READ_ONLY = """
import subprocess, sys
from main import main
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"], check=True)
trained = main(sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/dev/shm"], check=True)
sys.exit(trained or main(["--eval", "--resume", "runs/ResNet8-standard-agmax/folder-s0", "train.num_workers=2"]))
"""


def test_neither_a_small_nor_a_read_only_dev_shm_hinders_workers(images: Path) -> None:
    """A batch of eight images in two views of 160 pixels has 1.2 MB, and each worker has room for two."""
    words = (*WORDS, "dataset.image_size=160", "train.batch_size=8", "train.epochs=1")
    done = run_code(TRAIN_THEN_READ_ONLY, *words, folder=images.parent, mounts=True)
    assert done.returncode == 0, done.stderr
    assert "test of folder, 2 images: top1" in done.stderr.splitlines()[-1]


WITH_FEWER_AND_FEWER_FILES = """
import resource, sys
from main import main
for limit in map(int, sys.argv[1].split(",")):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print(limit, main(sys.argv[2:]), flush=True)
"""


def test_few_open_files_are_enough_or_are_one_line_and_a_long_tmpdir_does_not_matter(images: Path) -> None:
    place = images.parent / "long".ljust(100, "g")
    place.mkdir()
    limits = "40,24,12"
    words = (limits, *WORDS, "train.epochs=1")
    done = run_code(WITH_FEWER_AND_FEWER_FILES, *words, folder=images.parent, TMPDIR=str(place))
    assert done.stdout.splitlines() == ["40 0", "24 8", "12 8"], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (
        errors
        == [
            "error: the data workers cannot be started (train.num_workers=2): Too many open files. Raise the limit "
            "(ulimit -n, ulimit -u, the container's memory) or set train.num_workers=0"
        ]
        * 2
    )
    assert "Traceback" not in done.stderr and not list(place.iterdir())


# --- in the middle of a training -------------------------------------------------------------------------------------


@contextmanager
def open_files_limited(spare: int) -> Iterator[None]:
    """Leave this process only `spare` files more than it has open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}
    free = [number for number in range(len(taken) + spare + 1) if number not in taken]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[spare], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def killed_while_saving(patch: pytest.MonkeyPatch) -> None:
    save, before = CheckpointFolder.save, set(multiprocessing.active_children())

    def deadly(self: CheckpointFolder, step: int, state: dict[str, Any]) -> None:
        for worker in set(multiprocessing.active_children()) - before:
            if step == 2:
                worker.kill()
                worker.join()
        save(self, step, state)

    patch.setattr(CheckpointFolder, "save", deadly)


def stopped_in_the_second_epoch(patch: pytest.MonkeyPatch) -> None:
    write, main_process = from_files._Views._write, os.getpid()
    patch.setattr(workers, "WAIT_SECONDS", 0.4)

    def stopping(self: Any, image: Any, position: int, epoch: int) -> Any:
        if epoch == 1 and os.getpid() != main_process:
            os.kill(os.getpid(), signal.SIGSTOP)
        return write(self, image, position, epoch)

    patch.setattr(from_files._Views, "_write", stopping)


def stopped_after_a_signal_to_the_program(patch: pytest.MonkeyPatch) -> None:
    stopped_in_the_second_epoch(patch)
    patch.setattr(workers, "WAIT_SECONDS", 40)
    kill, main_process = os.kill, os.getpid()

    def kill_both(pid: int, number: int) -> None:
        if number == signal.SIGSTOP:
            kill(main_process, signal.SIGTERM)
        kill(pid, number)

    patch.setattr(os, "kill", kill_both)


def killed_in_the_second_epoch(patch: pytest.MonkeyPatch) -> None:
    stopped_in_the_second_epoch(patch)
    patch.setattr(signal, "SIGSTOP", signal.SIGKILL)


def without_files_in_the_second_epoch(patch: pytest.MonkeyPatch) -> None:
    write, main_process = from_files._Views._write, os.getpid()

    def few_files(self: Any, image: Any, position: int, epoch: int) -> Any:
        if epoch == 1 and os.getpid() != main_process:
            with open_files_limited(0):
                return write(self, image, position, epoch)
        return write(self, image, position, epoch)

    patch.setattr(from_files._Views, "_write", few_files)


def without_files_at_the_evaluation(patch: pytest.MonkeyPatch) -> None:
    finish = Trainer.finish_epoch

    def few_files(self: Trainer, **options: Any) -> None:
        with open_files_limited(6):
            finish(self, **options)

    patch.setattr(Trainer, "finish_epoch", few_files)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quiet")
    write_tree(folder / "data", ["a", "b"], {"train": 4, "val": 1}, size=(12, 12))
    assert Process(WORDS, folder).wait() == 0
    return folder / FOLDER


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (killed_while_saving, "a data worker was killed (often out of memory): process "),
        (killed_in_the_second_epoch, "a data worker was killed (often out of memory): process "),
        (stopped_in_the_second_epoch, "a data worker hangs (process "),
        (without_files_in_the_second_epoch, "too many open files (data/train/"),
        (without_files_at_the_evaluation, "the data workers cannot be started (train.num_workers=2): Too many open "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_of_the_workers_ends_with_8_in_one_line_and_the_run_continues_to_the_same_end(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path, fault: Callable[[pytest.MonkeyPatch], None], message: str
) -> None:
    before = set(multiprocessing.active_children())
    with monkeypatch.context() as patch:
        fault(patch)
        answer = run(*WORDS)
    assert answer.status == 8, answer.err
    assert f"error: {message}" in answer.err and "Traceback" not in answer.err
    assert sum(line.startswith("error: ") for line in answer.err.splitlines()) == 1
    newest = CheckpointFolder(FOLDER / "checkpoints").newest()
    assert newest is not None and int(newest[0].stem.removeprefix("step-")) >= 2
    resumed = run(*WORDS, "--resume")
    assert resumed.status == 0, resumed.err
    assert loss_log(FOLDER) == loss_log(quiet)
    assert_same_weights(FOLDER / "checkpoints/step-00000006.pth", quiet / "checkpoints/step-00000006.pth")
    del newest
    assert not {worker for worker in set(multiprocessing.active_children()) - before if worker.is_alive()}


@pytest.mark.usefixtures("images")
def test_a_stop_signal_while_the_workers_hang_saves_the_last_step(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path
) -> None:
    with monkeypatch.context() as patch:
        stopped_after_a_signal_to_the_program(patch)
        begin = time.monotonic()
        answer = run(*WORDS)
        assert time.monotonic() - begin < 30
    assert answer.status == 143, answer.err
    assert "stopped by SIGTERM after step 2 of 6, which is saved" in answer.err
    resumed = run(*WORDS, "--resume")
    assert resumed.status == 0, resumed.err
    assert loss_log(FOLDER) == loss_log(quiet)


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_killed_training_leaves_no_workers_and_nothing_in_dev_shm(images: Path) -> None:
    folder, before = images.parent, set(os.listdir("/dev/shm"))
    killed = Process((*WORDS, "train.epochs=10000"), folder)
    deadline = time.monotonic() + 30
    while len(steps_of(folder)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pid = killed._process.pid
    assert pid is not None
    left = children_of(pid)
    assert len(left) >= 2
    killed.send(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}/cmdline").exists() for child in left):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert set(os.listdir("/dev/shm")) <= before
