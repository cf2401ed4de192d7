"""When the memory is full or a data worker has ended, the last completed step is saved and the error says what fits."""

import json
import re
import resource
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import optim

from agmax.core import memory
from agmax.core.errors import AgmaxError, OutputError, ResourceError
from agmax.evaluation import predict
from agmax.models.classifier import Classifier
from agmax.training.checkpoint_folder import CheckpointFolder
from agmax.training.loop import Trainer
from helpers.command import Answer
from helpers.processes import Process
from helpers.training import TINY, assert_same_weights, loss_log

Run = Callable[..., Answer]
WORDS = ("--config=ResNet8-cutmix-agmax", *TINY, "--train")
FOLDER = Path("runs/ResNet8-cutmix-agmax/digits-s0")
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB.\nMore.")
STEP = 6
"""The number of completed steps before the one that fails, in the middle of the second epoch."""


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training in which nothing fails."""
    folder = tmp_path_factory.mktemp("quiet")
    assert Process(WORDS, folder).wait() == 0
    return folder / FOLDER


@contextmanager
def failing(owner: Any, name: str, error: Exception, *, before: bool = False) -> Iterator[None]:
    """Let a function raise an error, at the end of its work or before it."""
    original = getattr(owner, name)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if not before:
            original(*args, **kwargs)
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fail)
        yield


def fail_in(monkeypatch: pytest.MonkeyPatch, place: str, error: Exception) -> None:
    """Let the step after STEP fail at a place, as if the memory were full there."""
    original, add = Trainer.train_step, Trainer._add

    def failing_add(trainer: Trainer, losses: Any, num_images: int) -> None:
        _raise(error) if place == "sums" and trainer.step == STEP else add(trainer, losses, num_images)

    def failing_step(trainer: Trainer, raw: Any) -> Any:
        if trainer.step != STEP or place == "sums":
            return original(trainer, raw)
        if place == "loader":
            raise error
        owner, name = {
            "augment": (trainer.make_step, "augment"),
            "forward": (Classifier, "forward"),
            "backward": (torch.Tensor, "backward"),
            "update": (optim.SGD, "step"),
        }[place]
        with failing(owner, name, error):
            return original(trainer, raw)

    monkeypatch.setattr(Trainer, "train_step", failing_step)
    monkeypatch.setattr(Trainer, "_add", failing_add)


def _raise(error: Exception) -> None:
    raise error


def newest() -> str:
    return CheckpointFolder(FOLDER / "checkpoints").list_checkpoints()[-1].name


def assert_continues_to_the_same(run: Run, quiet: Path, after: int) -> None:
    answer = run(*WORDS, "--resume", "auto")
    assert answer.status == 0 and f"continuing after step {after} of 12" in answer.err, answer.err
    assert loss_log(FOLDER) == loss_log(quiet)
    last = "checkpoints/step-00000012.pth"
    assert_same_weights(FOLDER / last, quiet / last)


@pytest.mark.parametrize("place", ["augment", "forward", "backward"])
def test_full_memory_before_the_update_saves_the_last_completed_step(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path, place: str
) -> None:
    with monkeypatch.context() as patch:
        fail_in(patch, place, OUT_OF_MEMORY)
        answer = run(*WORDS)
    saved, error = answer.err.splitlines()[-2:]
    assert answer.status == 8 and saved == "the state after step 6 is saved; --resume continues it"
    message = (
        r"the memory is full \(step 7, 32 images x 2 views, CifarResNet of 0\.1 million parameters\): CUDA out of "
        r"memory\. Tried to allocate 2\.00 GiB\. GPU 0 has 1 GiB; peak \d+\.\d\d GiB, \d+\.\d\d of the machine's "
        r"\d+\.\d\d GiB are available\. Reduce train\.batch_size=32, or compute in bf16 \(train\.precision=auto\)"
    )
    assert re.fullmatch(f"error: {message}", error)
    state = json.loads((FOLDER / "state.json").read_text())
    assert (state["state"], state["exit_code"]) == ("failed", 8) and re.fullmatch(message, state["reason"])
    assert newest() == "step-00000006.pth"
    assert_continues_to_the_same(run, quiet, after=6)


@pytest.mark.parametrize("place", ["update", "sums"])
def test_full_memory_after_the_update_has_begun_saves_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path, place: str
) -> None:
    with monkeypatch.context() as patch:
        fail_in(patch, place, OUT_OF_MEMORY)
        answer = run(*WORDS)
    last = FOLDER / "checkpoints" / "step-00000004.pth"
    lost = f"step 7 has failed while it changed the weights, which are lost; the last checkpoint is {last}"
    assert answer.status == 8 and answer.err.splitlines()[-2] == lost
    assert newest() == last.name
    assert_continues_to_the_same(run, quiet, after=4)


@pytest.mark.parametrize("error", [ResourceError("a data worker was killed"), MemoryError(), AgmaxError("no image")])
def test_an_error_of_the_loader_saves_the_last_completed_step(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path, error: Exception
) -> None:
    with monkeypatch.context() as patch:
        fail_in(patch, "loader", error)
        answer = run(*WORDS)
    expected = 1 if type(error) is AgmaxError else 8
    assert answer.status == expected and newest() == "step-00000006.pth"
    assert answer.err.splitlines()[-1].startswith(f"error: {error or 'the memory is full (step 7, '}")
    assert_continues_to_the_same(run, quiet, after=6)


def test_a_failed_save_does_not_hide_the_first_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_in(monkeypatch, "forward", OUT_OF_MEMORY)
    original = CheckpointFolder.save

    def save(folder: CheckpointFolder, step: int, state: Any) -> None:
        original(folder, step, state) if step == 4 else _raise(OutputError("disk full", where="checkpoints"))

    monkeypatch.setattr(CheckpointFolder, "save", save)
    answer = run(*WORDS)
    warning, error = answer.err.splitlines()[-2:]
    assert warning == "the state after step 6 could not be saved: disk full (checkpoints)"
    assert answer.status == 8 and error.startswith("error: the memory is full (step 7")


def test_the_tensors_of_the_failed_step_are_freed_before_the_save(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    original, save, kept, alive = Trainer.train_step, CheckpointFolder.save, list[Any](), list[bool]()

    def full(trainer: Trainer, raw: Any) -> Any:
        if trainer.step == STEP:
            activations = torch.ones(2)
            kept.append(weakref.ref(activations))
            raise OUT_OF_MEMORY
        return original(trainer, raw)

    def look(folder: CheckpointFolder, step: int, state: Any) -> None:
        alive.extend(reference() is not None for reference in kept)
        save(folder, step, state)

    monkeypatch.setattr(Trainer, "train_step", full)
    monkeypatch.setattr(CheckpointFolder, "save", look)
    assert run(*WORDS).status == 8 and alive == [False]


def test_full_memory_in_the_first_step_has_nothing_to_save(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with failing(Classifier, "forward", OUT_OF_MEMORY):
        assert run(*WORDS).status == 8
    assert list((FOLDER / "checkpoints").iterdir()) == []


def test_full_memory_in_an_evaluation_names_its_batch_size(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with failing(predict, "normalize", OUT_OF_MEMORY):
        answer = run(*WORDS, "evaluation.batch_size=50")
    assert answer.status == 8 and newest() == "step-00000004.pth"
    error = answer.err.splitlines()[-1]
    assert error.startswith("error: the memory is full (evaluation): CUDA out of memory.")
    assert error.endswith(" Reduce evaluation.batch_size=50")
    assert json.loads((FOLDER / "state.json").read_text())["exit_code"] == 8


class Card:
    """A GPU of 80 GiB: another program has 4, libraries 3 outside and weights 1 inside torch, each image needs 0.25."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.peak, self.steps = 0.0, list[int]()
        for name, function in {
            "device_count": lambda: 1,
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": lambda gpu: None,
            "memory_allocated": lambda gpu: 1 * memory.GIB,
            "max_memory_allocated": lambda gpu: self.peak * memory.GIB,
            "mem_get_info": lambda gpu: (72 * memory.GIB, 80 * memory.GIB),
        }.items():
            monkeypatch.setattr(torch.cuda, name, function)

    def step(self, num_images: int) -> None:
        self.steps.append(num_images)
        self.peak = 1 + 0.25 * num_images


def test_the_batch_that_fits_follows_from_two_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """72 GiB are free for images beside 1 for the weights: 288 images; with 10 GiB kept, 248."""
    card, cuda = Card(monkeypatch), torch.device("cuda")
    assert memory.images_that_fit(card.step, 512, cuda) == 288
    assert card.steps == [32, 32, 64]
    assert memory.images_that_fit(card.step, 512, cuda, reserve=10 * memory.GIB) == 248
    assert memory.images_that_fit(card.step, 256, cuda) is None  # all fit: something else is wrong
    assert memory.images_that_fit(card.step, 31, cuda) is None  # too few to measure
    assert memory.images_that_fit(lambda count: _raise(OUT_OF_MEMORY), 512, cuda) is None
    assert memory.images_that_fit(card.step, 512, torch.device("cpu")) is None


def test_the_peak_is_that_of_where_the_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    card, cuda = Card(monkeypatch), torch.device("cuda")
    card.peak = 70
    assert memory.reason(OUT_OF_MEMORY, cuda).endswith("GPU 0 has 1 GiB; peak 70.00 of 80.00 GiB on cuda:0")
    monkeypatch.setattr(memory, "GROUP_LIMIT", memory.MEMINFO.with_name("no such file"))
    assert re.match(r"no memory is left; peak \d+\.\d\d GiB, .* of the machine's ", memory.reason(MemoryError(), cuda))


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("2147483648\n", ", this container may use 2.00 GiB"),
        ("max\n", ", 6.00 of the machine's 8.00 GiB are available"),
        ("17179869184\n", ", 6.00 of the machine's 8.00 GiB are available"),
    ],
)
@pytest.mark.parametrize(("system", "peak"), [("linux", "3072.00 GiB"), ("darwin", "3.00 GiB")])
def test_the_limit_of_a_container_counts_where_it_is_less_than_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, said: str, system: str, peak: str
) -> None:
    """A peak of 3 * 2^30 is in KiB on Linux, in bytes on macOS."""
    (tmp_path / "meminfo").write_text(f"MemTotal: {8 * 2**20} kB\nMemAvailable: {6 * 2**20} kB\n")
    (tmp_path / "limit").write_text(limit)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP_LIMIT", tmp_path / "limit")
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3 * 2**30))
    assert memory.reason(MemoryError("full"), torch.device("cpu")) == f"full; peak {peak}{said}"
