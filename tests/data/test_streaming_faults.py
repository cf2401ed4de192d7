"""Errors other than bad images: bugs, full memory, workers that die."""

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from agmax.core.batch import RawBatch
from agmax.core.errors import ResourceError
from agmax.data import decode, from_files
from agmax.data.splits import FileDataset
from agmax.training.loop import Trainer
from helpers.command import Answer
from helpers.images import write_tree
from helpers.streaming import CROPS, SMALL, epoch_of, error_of, raising, stream


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("skip", [False, True])
def test_a_bug_in_the_cropping_names_the_file_and_the_operation_and_is_never_skipped(
    photographs: FileDataset, monkeypatch: pytest.MonkeyPatch, num_workers: int, skip: bool
) -> None:
    monkeypatch.setattr(from_files, "resized_crop", raising(ZeroDivisionError("by\nzero")))
    loader = stream(photographs, num_workers=num_workers, skip_bad_images=skip, **CROPS)
    error = error_of(loader.batches([torch.tensor([3, 1])], epoch=0))
    why = r"crop raised ZeroDivisionError: by\nzero"
    assert str(error) == f"image cannot be cropped ({photographs.paths[3]}): {why}"
    assert error.__notes__ == [
        f"raised in {raising.__code__.co_filename}, line {raising.__code__.co_firstlineno + 2}, broken"
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bug_in_the_decoding_names_the_file_and_the_operation(
    photographs: FileDataset, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    monkeypatch.setattr(decode, "_to_8_bits", raising(KeyError("plug-in")))
    loader = stream(photographs, num_workers=num_workers)
    error = error_of(loader.batches([torch.tensor([2])], epoch=0))
    why = "decode raised KeyError: 'plug-in'"
    assert str(error).startswith(f"image cannot be read ({photographs.paths[2]}): {why}. Replace or remove it")
    assert error.__notes__ == [
        f"raised in {raising.__code__.co_filename}, line {raising.__code__.co_firstlineno + 2}, broken"
    ]


def test_a_bug_in_a_worker_is_one_message_and_with_debug_one_traceback(
    run: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "data", ["a", "b"], {"train": 4, "val": 1}, size=(9, 9))
    monkeypatch.setattr(from_files, "center_crop", raising(ValueError("a bug")))
    words = ("--config=ResNet8", "--train", "--dataset=folder", "dataset.root=data", *SMALL, "train.num_workers=2")
    for debug in ((), ("--debug",)):
        answer = run(*words, *debug)
        assert answer.status == 3
        assert answer.err.count("error: image cannot be cropped") == 1
        assert (
            answer.err.count("Traceback") == len(debug) == answer.err.count(f"raised in {raising.__code__.co_filename}")
        )


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (MemoryError(), ResourceError),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: 9 bytes."), ResourceError),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ResourceError),
        (OSError("out of memory error when reading image file"), ResourceError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["python", "torch", "system", "pillow", "interrupt"],
)
@pytest.mark.parametrize("operation", ["decode", "convert", "crop"])
def test_a_full_memory_and_an_interrupt_are_not_taken_for_bad_images(
    photographs: FileDataset,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    seen: type[BaseException],
    operation: str,
) -> None:
    module, name = {
        "decode": (decode, "decode_jpeg"),
        "convert": (decode, "convert_channels"),
        "crop": (from_files, "resized_crop"),
    }[operation]
    monkeypatch.setattr(module, name, raising(raised))
    position = 1 if operation == "convert" else 0  # the one that Pillow decodes, to turn it
    for num_workers in (0, 1) if seen is ResourceError else (0,):
        loader = stream(photographs, num_workers=num_workers, skip_bad_images=True, **CROPS)
        error = error_of(loader.batches([torch.tensor([position])], epoch=0), seen)
        assert type(error) is seen
        assert seen is KeyboardInterrupt or str(error).startswith("the memory is full: while reading images. Lower ")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_open_files_are_not_taken_for_a_bad_image(
    photographs: FileDataset, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    monkeypatch.setattr(Image, "open", raising(OSError(errno.EMFILE, "Too many open files")))
    loader = stream(photographs, num_workers=num_workers, skip_bad_images=True, **CROPS)
    message = str(error_of(loader.batches([torch.tensor([0])], epoch=0), ResourceError))
    assert message.startswith(f"too many open files ({photographs.paths[0]}): Too many open files. Raise the limit")
    assert "ulimit -n" in message


def test_an_image_that_kills_its_worker_ends_with_8(
    run: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "data", ["a", "b"], {"train": 4, "val": 1}, size=(9, 9))
    main_process = os.getpid()

    def deadly(image: Image.Image, size: int) -> None:
        assert os.getpid() != main_process
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(from_files, "center_crop", deadly)
    words = ("--config=ResNet8", "--train", "--dataset=folder", "dataset.root=data", *SMALL, "train.num_workers=2")
    answer = run(*words)
    assert answer.status == ResourceError.exit_code == 8
    assert "error: a data worker was killed (often out of memory)" in answer.err
    assert "Lower train.num_workers" in answer.err and "Traceback" not in answer.err


def test_a_worker_that_dies_in_a_training_costs_no_completed_step(
    run: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "data", ["a", "b"], {"train": 8, "val": 1}, size=(9, 9))
    original = Trainer.train_step

    def kill_workers(trainer: Trainer, raw: RawBatch) -> Any:
        terms = original(trainer, raw)
        time.sleep(0.1)  # until they wait for work
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGKILL)
        return terms

    words = ("--config=ResNet8", "--train", "--dataset=folder", "dataset.root=data", *SMALL, "train.num_workers=1")
    words += ("train.batch_size=2", "train.epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", kill_workers)
        answer = run(*words)
    saved = [path.stem for path in tmp_path.glob("runs/*/*/checkpoints/*.pth")]
    assert answer.status == 8 and len(saved) == 1 and saved != ["step-00000008"], answer.err
    step = int(saved[0].removeprefix("step-"))
    assert f"the state after step {step} is saved" in answer.err
    again = run(*words, "--resume")
    assert again.status == 0 and f"continuing after step {step} of 8" in again.err


def test_a_dead_worker_is_reported_only_when_a_batch_is_fetched(photographs: FileDataset) -> None:
    loader = stream(photographs, num_workers=1)
    before = multiprocessing.active_children()
    batches = loader.batches([torch.arange(5)] * 9, epoch=0)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - set(before)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    time.sleep(0.2)  # here the main process computes or saves
    with pytest.raises(ResourceError, match=rf"a data worker was killed .*{worker.pid} ended by SIGKILL"):
        list(batches)


def test_another_runtime_error_keeps_its_type(photographs: FileDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_files._Views, "fill", raising(RuntimeError("no space left")))
    for num_workers in (0, 1):
        with pytest.raises(RuntimeError, match="no space left"):
            epoch_of(stream(photographs, num_workers=num_workers))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_full_memory_outside_of_the_images_is_said_too(
    photographs: FileDataset, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    monkeypatch.setattr(from_files._Views, "fill", raising(RuntimeError("DefaultCPUAllocator: can't allocate memory")))
    loader = stream(photographs, num_workers=num_workers)
    message = str(error_of(loader.batches([torch.tensor([0])], epoch=0), ResourceError))
    assert message.startswith("the memory is full: while reading images. Lower ")
