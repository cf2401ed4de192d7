"""The workers of a loader: their memory, their order, and how they begin and end."""

import errno
import gc
import math
import mmap
import multiprocessing
import os
import pickle
import signal
import struct
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agmax.core.errors import ResourceError
from agmax.core.signals import defer_stop
from agmax.data import workers
from agmax.data.splits import FileDataset
from agmax.data.workers import Workers
from helpers.streaming import CROPS, epoch_of, raising, same, stream, worker_processes

BATCHES = [torch.tensor([number % 7, number % 5, number % 3][: 1 + number % 3]) for number in range(40)]
"""Forty batches of one to three images, more than there are slots."""


def numbered(images: Tensor, positions: list[int], epoch: int) -> str:
    """Write 20 epochs + position to each image, one in three batches slowly."""
    if positions[0] == 0:
        time.sleep(0.002)
    for image, position in zip(images, positions, strict=True):
        image.fill_(20 * epoch + position)
    return f"{epoch}: {positions}"


def started(fill: Callable[..., Any] = numbered, num_workers: int = 2, num_rows: int = 3) -> Workers:
    return Workers(fill, num_workers=num_workers, num_rows=num_rows, row_shape=(2, 5), pin_memory=False)


def expected(epoch: int) -> list[tuple[list[Any], str]]:
    return [
        ([[[20 * epoch + position] * 5] * 2 for position in positions.tolist()], f"{epoch}: {positions.tolist()}")
        for positions in BATCHES
    ]


def children() -> set[BaseProcess]:
    return set(multiprocessing.active_children())


@pytest.mark.parametrize("has_fork", [True, False])
@pytest.mark.parametrize("pipe_bytes", [workers.PIPE_BYTES, 0], ids=["one task ahead", "no task ahead"])
def test_batches_keep_their_order_and_belong_to_who_has_received_them(
    monkeypatch: pytest.MonkeyPatch, has_fork: bool, pipe_bytes: int
) -> None:
    monkeypatch.setattr(workers, "HAS_FORK", has_fork)
    monkeypatch.setattr(workers, "PIPE_BYTES", pipe_bytes)
    with_slots = started()
    for epoch in (0, 1):
        received = []
        for number, filled in enumerate(with_slots.fill(BATCHES, epoch=epoch)):
            if number in (3, 20):
                time.sleep(0.05)  # every slot is full by then
            received.append(filled)
        assert [(images.tolist(), text) for images, text in received] == expected(epoch)
    with_slots.stop()


def test_tasks_and_results_that_no_pipe_takes_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "HAS_FORK", False)  # so that the images go through the pipe
    monkeypatch.setattr(workers, "_result", lambda fill, images, positions, epoch: len(positions))
    previous = signal.signal(signal.SIGALRM, raising(TimeoutError()))
    signal.setitimer(signal.ITIMER_REAL, 10)
    try:
        large = started(num_workers=1, num_rows=60_000)
        sizes = [count for _, count in large.fill([torch.arange(60_000)] * 5, epoch=0)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert sizes == [60_000] * 5
    large.stop()


def test_workers_without_a_fork_can_be_sent_what_they_compute(photographs: FileDataset) -> None:
    loader = stream(photographs, **CROPS)
    sent = pickle.loads(pickle.dumps(loader._views.fill))
    one, other = (torch.empty((5, *loader._views.shape), dtype=torch.uint8) for _ in range(2))
    assert sent(one, list(range(5)), 3) == loader._views.fill(other, list(range(5)), 3) == {}
    assert torch.equal(one, other)


def test_an_epoch_that_is_given_up_ends_its_workers_and_leaves_nothing_to_the_next(photographs: FileDataset) -> None:
    loader, alone = stream(photographs, num_workers=2, **CROPS), stream(photographs, **CROPS)
    before = children()
    given_up = loader.batches([torch.tensor([0, 1])] * 9, epoch=0)
    next(given_up)
    ended = children() - before
    assert len(ended) == 2
    given_up.close()
    assert children() == before
    assert same(epoch_of(loader, 1), epoch_of(alone, 1))
    assert ended.isdisjoint(worker_processes(loader))


def test_two_epochs_at_once_do_not_mix(photographs: FileDataset) -> None:
    loader, alone = stream(photographs, num_workers=1, **CROPS), stream(photographs, **CROPS)
    batches = [torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4])]
    both = list(zip(loader.batches(batches, epoch=0), loader.batches(batches, epoch=1), strict=True))
    for epoch in (0, 1):
        assert same([pair[epoch] for pair in both], list(alone.batches(batches, epoch=epoch)))
    assert len(worker_processes(loader)) == 1


def test_larger_batches_get_larger_memory_and_smaller_ones_keep_it(photographs: FileDataset) -> None:
    loader, alone = stream(photographs, num_workers=1), stream(photographs)
    processes = []
    for size in (2, 5, 3):
        assert same(epoch_of(loader, batch_size=size), epoch_of(alone, batch_size=size))
        processes.append(worker_processes(loader))
    assert processes[0] != processes[1] == processes[2]
    assert not processes[0][0].is_alive()


def test_workers_end_with_their_loader(photographs: FileDataset) -> None:
    before = children()
    loader = stream(photographs, num_workers=2)
    epoch_of(loader)
    assert len(children() - before) == 2
    del loader
    assert children() == before


# --- what does not come ----------------------------------------------------------------------------------------------


def stopped(images: Tensor, positions: list[int], epoch: int) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def asleep(images: Tensor, positions: list[int], epoch: int) -> None:
    time.sleep(100)


@pytest.mark.parametrize("fill", [stopped, asleep])
def test_a_worker_that_hangs_is_killed_and_named(monkeypatch: pytest.MonkeyPatch, fill: Callable[..., Any]) -> None:
    monkeypatch.setattr(workers, "WAIT_SECONDS", 0.4)
    before, hanging = children(), started(fill, num_workers=1)
    (worker,) = children() - before
    with pytest.raises(ResourceError, match=rf"a data worker hangs \(process {worker.pid}\): no batch .* for 0.4 s\. "):
        next(hanging.fill(BATCHES, epoch=0))
    assert not hanging.is_idle  # so that a loader does not use it again
    begin = time.perf_counter()
    hanging.stop()
    assert time.perf_counter() - begin < workers.END_SECONDS and not worker.is_alive()


def test_a_stop_signal_ends_the_wait_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WAIT_SECONDS", 1)
    hanging = started(asleep, num_workers=1)
    with defer_stop() as pending:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(ResourceError, match=r"a batch is not waited for \(process \d+\): the program is to stop"):
            next(hanging.fill(BATCHES, epoch=0))
    hanging.stop()
    assert pending.signal_number == signal.SIGTERM
    with pytest.raises(ResourceError, match="a data worker hangs"), defer_stop():  # the signal of another block
        next(started(asleep, num_workers=1).fill(BATCHES, epoch=0))


def test_a_program_that_was_suspended_does_not_take_its_workers_for_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    poll, polls = Connection.poll, []

    def all_time_has_passed_at_first(self: Connection, timeout: float = 0.0) -> bool:
        polls.append(timeout)
        return len(polls) > 1 and poll(self, 30)

    suspended = started(num_workers=1)
    monkeypatch.setattr(Connection, "poll", all_time_has_passed_at_first)
    assert next(suspended.fill(BATCHES, epoch=0))[1] == "0: [0]"
    suspended.stop()


@pytest.mark.parametrize("make", [lambda: lambda: None, lambda: os.scandir(".")], ids=["a function", "an open file"])
def test_a_result_that_cannot_be_sent_is_an_error_and_no_endless_wait(make: Callable[[], Any]) -> None:
    speechless = started(lambda *_: make())
    with pytest.raises(RuntimeError, match=r"a data worker cannot send its result: .*pickle"):
        next(speechless.fill(BATCHES, epoch=0))
    speechless.stop()


def test_a_bug_in_a_worker_brings_its_traceback() -> None:
    faulty = started(lambda *_: math.sqrt(-1))
    with pytest.raises(RuntimeError, match=r"a data worker failed:\nTraceback(.|\n)*math domain error"):
        next(faulty.fill(BATCHES, epoch=0))
    faulty.stop()


def test_a_dead_worker_is_noticed_at_once_also_when_it_is_to_begin() -> None:
    dead = started(num_workers=1)
    (worker,) = dead._workers
    worker.process.kill()
    worker.process.join()
    begin = time.perf_counter()
    with pytest.raises(
        ResourceError, match=rf"a data worker was killed .*process {worker.process.pid} ended by SIGKILL"
    ):
        next(dead.fill(BATCHES, epoch=0))
    assert time.perf_counter() - begin < 1 and not dead.is_idle
    dead.stop()


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGUSR2), "by SIGUSR2"),
        (lambda: os.kill(os.getpid(), signal.SIGRTMIN + 2), f"by signal {signal.SIGRTMIN + 2}"),
        (lambda: os._exit(3), "with code 3"),
    ],
    ids=["a signal", "a signal without a name", "an exit"],
)
def test_only_a_worker_that_was_killed_is_taken_for_one_out_of_memory(end: Callable[[], None], how: str) -> None:
    ending = started(lambda *_: end(), num_workers=1)
    (worker,) = ending._workers
    with pytest.raises(ResourceError) as failure:
        next(ending.fill(BATCHES, epoch=0))
    assert str(failure.value) == f"a data worker has ended: process {worker.process.pid} ended {how}"
    ending.stop()


def hang_beside_idle_workers(pids: Connection) -> None:
    """Be a program with a loader whose workers wait, and a later one whose worker hangs."""
    idle, hanging = started(num_workers=2), started(stopped, num_workers=1)
    pids.send([worker.process.pid for worker in (*idle._workers, *hanging._workers)])
    next(hanging.fill(BATCHES, epoch=0))


def state_of(pid: int) -> str:
    """Return Linux's letter of a process's state, Z if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def wait_for_state(pid: int, state: str) -> None:
    deadline = time.monotonic() + 10
    while state_of(pid) != state:
        assert time.monotonic() < deadline, f"process {pid} is not in state {state} after 10 s"
        time.sleep(0.01)


def test_a_worker_that_hangs_when_the_program_is_killed_keeps_no_other_worker_alive() -> None:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    program = context.Process(target=hang_beside_idle_workers, args=(sender,))
    program.start()
    assert receiver.poll(30)
    *idle, hanging = receiver.recv()
    try:
        wait_for_state(hanging, "T")
        program.kill()
        program.join()
        for pid in idle:
            wait_for_state(pid, "Z")
    finally:
        for pid in (*idle, hanging):
            if state_of(pid) != "Z":
                os.kill(pid, signal.SIGKILL)
    receiver.close()
    sender.close()


def test_a_worker_whose_program_dies_in_the_middle_of_a_message_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("outlive_stop_signals", "_allow_stop_signals"):
        monkeypatch.setattr(workers, name, lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(workers, "_ends_of_the_program", set())
    receiver, sender = multiprocessing.Pipe(duplex=False)
    os.write(sender.fileno(), struct.pack("!i", 100) + b"a part of 100 bytes")
    sender.close()
    workers._work(numbered, None, (2, 5), receiver, receiver)
    receiver.close()


def test_workers_that_do_not_end_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those that a network folder holds; the program has a training to save."""
    monkeypatch.setattr(workers, "END_SECONDS", 0.5)
    endless = started(num_workers=4)
    processes = [worker.process for worker in endless._workers]
    with monkeypatch.context() as patch:
        patch.setattr(BaseProcess, "kill", lambda self: os.kill(self.pid, signal.SIGSTOP))
        begin = time.perf_counter()
        endless.stop()
        assert time.perf_counter() - begin < 1.5
    for process in processes:
        process.kill()
        process.join()


# --- the start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC])
@pytest.mark.parametrize("call", [(mmap, "mmap"), (os, "pipe"), (os, "fork")], ids=lambda call: call[1])
def test_workers_that_cannot_be_started_are_one_line_and_leave_nothing(
    monkeypatch: pytest.MonkeyPatch, number: int, call: tuple[Any, str]
) -> None:
    module, name = call
    original, calls = getattr(module, name), []

    def fail_at_the_end(*arguments: Any) -> Any:
        calls.append(arguments)
        if name == "mmap" or len(calls) == (2 if name == "fork" else 7):
            raise OSError(number, os.strerror(number))
        return original(*arguments)

    gc.collect()
    before, files = children(), len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(module, name, fail_at_the_end)
    with pytest.raises(ResourceError) as failure:
        started()
    monkeypatch.undo()
    assert str(failure.value) == (
        f"the data workers cannot be started (train.num_workers=2): {os.strerror(number)}. Raise the limit "
        "(ulimit -n, ulimit -u, the container's memory) or set train.num_workers=0"
    )
    del failure
    left_by_multiprocessing = 4 if name == "fork" else 0
    assert children() == before and len(os.listdir("/proc/self/fd")) <= files + left_by_multiprocessing


def test_a_stop_signal_while_a_worker_starts_does_not_end_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    shield = workers.outlive_stop_signals

    def late() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        shield()

    monkeypatch.setattr(workers, "outlive_stop_signals", late)
    shielded = started(num_workers=1)
    assert next(shielded.fill(BATCHES, epoch=0))[1] == "0: [0]"
    shielded.stop()


def test_for_a_gpu_batches_are_copied_to_pinned_memory(
    photographs: FileDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, pinned, copied = torch.empty, set[int](), list[int]()

    def pinned_empty(*arguments: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        made = empty(*arguments, **options)
        if pin_memory:
            pinned.add(made.data_ptr())
        return made

    def pin(self: Tensor) -> Tensor:
        if self.data_ptr() in pinned:  # as torch does
            return self
        copied.append(self.ndim)
        return pinned_empty(self.shape, dtype=self.dtype, pin_memory=True).copy_(self)

    monkeypatch.setattr(torch, "empty", pinned_empty)
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    for num_workers in (0, 1):
        pinned.clear()
        copied.clear()
        batches = epoch_of(stream(photographs, num_workers=num_workers, pin_memory=True))
        assert {part.data_ptr() for batch in batches for part in batch} <= pinned
        assert same(batches, epoch_of(stream(photographs)))
        assert num_workers == 0 or set(copied) == {1}  # the images go from the shared memory to pinned memory at once
