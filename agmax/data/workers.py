"""Processes that fill batches in memory they share with the program.

The memory is anonymous and inherited by a fork, and all else goes through pipes: neither the size of /dev/shm nor the
folder of temporary files matters, and no descriptor is passed with a batch.
"""

import math
import mmap
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pickle import PicklingError
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor

from agmax.core.errors import AgmaxError, ResourceError
from agmax.core.signals import STOP_SIGNALS, is_stop_pending, outlive_stop_signals

Fill = Callable[[Tensor, list[int], int], Any]
"""Writes the images at positions [N] of an epoch to a tensor uint8 [N, ...]; returns a small picklable object."""

HAS_FORK = sys.platform != "darwin" and "fork" in multiprocessing.get_all_start_methods()
"""Whether workers inherit memory; macOS's own libraries do not survive a fork."""

WAIT_SECONDS = 600.0
"""Seconds that a batch may take; a worker that needs longer hangs, for instance on a network folder."""

WAIT_PART_SECONDS = 0.5
"""Seconds of a part of this wait: a stop signal ends it after one; a program that was suspended loses only one."""

END_SECONDS = 5.0
"""Seconds to wait for the end of killed workers."""

PIPE_BYTES = 32768
"""Size of a message that a pipe takes beside another one, although nobody reads."""

_ends_of_the_program: WeakSet[Connection] = WeakSet()
"""The program's ends of all pipes; a worker that kept copies of them would keep the other workers from ending."""


class _Worker(NamedTuple):
    process: BaseProcess
    tasks: Connection
    results: Connection


class Workers:
    """Worker processes, each with memory for the batches it works on and those that wait to be fetched."""

    def __init__(
        self, fill: Fill, *, num_workers: int, num_rows: int, row_shape: tuple[int, ...], pin_memory: bool
    ) -> None:
        """Start the workers, for batches of at most `num_rows` images of `row_shape`.

        Raises:
            ResourceError: there are not enough files, processes or memory.
        """
        self.num_rows, self._row_shape, self._pin_memory = num_rows, row_shape, pin_memory
        # A worker always has a task to go on with. A long list of positions is sent only when the worker waits for it:
        # the program never waits for a full pipe while the worker waits for the program.
        self._tasks_of_each = 2 if 8 * num_rows <= PIPE_BYTES else 1
        self._num_open = 0
        self._workers: list[_Worker] = []
        self.stop = util.Finalize(self, _kill, args=(self._workers,), exitpriority=10)
        try:
            shape = (num_workers, self._tasks_of_each, num_rows, *row_shape)
            # [worker, task, N, ...]
            self._slots = _shared_memory(shape) if HAS_FORK else None
            with _stop_signals_blocked():
                for number in range(num_workers):
                    slots = None if self._slots is None else self._slots[number]
                    self._workers.append(_start_worker(fill, slots, row_shape))
        except OSError as error:
            self.stop()
            why = error.strerror or str(error)
            remedy = "Raise the limit (ulimit -n, ulimit -u, the container's memory) or set train.num_workers=0"
            raise ResourceError(
                "the data workers cannot be started", where=f"train.num_workers={num_workers}", why=why, remedy=remedy
            ) from None

    @property
    def is_idle(self) -> bool:
        """Return whether every batch that was asked for has been fetched."""
        return self._num_open == 0

    def fill(self, batches: list[Tensor], *, epoch: int) -> Iterator[tuple[Tensor, Any]]:
        """Yield a tensor uint8 [N, ...] and what `fill` returned for each tensor of positions [N], in order.

        Worker k fills batches k, k + num_workers, ... and uses its slots in turn. A batch is copied when it is fetched,
        and only then is the next task of that slot sent: no slot is written while it is read.

        Raises:
            ResourceError: a worker died or hangs, or a stop signal arrived while one was waited for.
        """
        num_tasks = len(self._workers) * self._tasks_of_each
        for number in range(min(num_tasks, len(batches))):
            self._send(number, batches, epoch)
        for number, positions in enumerate(batches):
            filled = self._fetch(number, len(positions))
            if number + num_tasks < len(batches):
                self._send(number + num_tasks, batches, epoch)
            yield filled

    def _send(self, number: int, batches: list[Tensor], epoch: int) -> None:
        worker, slot = self._place(number)
        self._num_open += 1
        try:
            worker.tasks.send((slot, batches[number].tolist(), epoch))
        except OSError:
            raise _death_of(worker) from None

    def _fetch(self, number: int, num_rows: int) -> tuple[Tensor, Any]:
        """Wait for a batch and return a copy of it, which belongs to the caller."""
        worker, slot = self._place(number)
        num_parts = math.ceil(WAIT_SECONDS / WAIT_PART_SECONDS)
        while num_parts and not worker.results.poll(WAIT_PART_SECONDS):
            num_parts -= 1
            if is_stop_pending():
                where = f"process {worker.process.pid}"
                raise ResourceError("a batch is not waited for", where=where, why="the program is to stop")
        if not num_parts:
            raise ResourceError(
                "a data worker hangs",
                where=f"process {worker.process.pid}",
                why=f"no batch came from it for {WAIT_SECONDS:g} s",
                remedy="See that the folder of the images can be read, for instance that its network is up",
            )
        try:
            result, pixels = worker.results.recv()
        except (EOFError, OSError):
            raise _death_of(worker) from None
        self._num_open -= 1
        if isinstance(result, BaseException):
            raise result
        if self._slots is not None:
            shared = self._slots[number % len(self._workers), slot, :num_rows]
        else:
            shared = torch.from_numpy(pixels)
        return torch.empty(shared.shape, dtype=torch.uint8, pin_memory=self._pin_memory).copy_(shared), result

    def _place(self, number: int) -> tuple[_Worker, int]:
        """Return the worker of a batch, and which of the worker's slots is used."""
        num_workers = len(self._workers)
        return self._workers[number % num_workers], number // num_workers % self._tasks_of_each


def _shared_memory(shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(mmap.mmap(-1, math.prod(shape)), dtype=torch.uint8).view(shape)


def _start_worker(fill: Fill, slots: Tensor | None, row_shape: tuple[int, ...]) -> _Worker:
    """Start a worker that keeps its ends of two pipes: when it dies, its end of `results` is closed."""
    context: Any = multiprocessing.get_context("fork" if HAS_FORK else None)
    pipes: list[Connection] = []
    try:
        pipes += context.Pipe(duplex=False)
        pipes += context.Pipe(duplex=False)
        their_tasks, tasks, results, their_results = pipes
        _ends_of_the_program.update((tasks, results))
        process = context.Process(target=_work, args=(fill, slots, row_shape, their_tasks, their_results), daemon=True)
        process.start()
    except BaseException:
        for pipe in pipes:
            pipe.close()
        raise
    their_tasks.close()
    their_results.close()
    return _Worker(process, tasks, results)


def _work(
    fill: Fill,
    slots: Tensor | None,
    row_shape: tuple[int, ...],
    tasks: Connection,
    results: Connection,
) -> None:
    """Fill batches until the pipe of tasks is closed, maybe in the middle of a message: the parent is gone."""
    outlive_stop_signals()
    _allow_stop_signals()
    torch.set_num_threads(1)
    for pipe in _ends_of_the_program:  # copies of a fork
        pipe.close()
    while True:
        try:
            slot, positions, epoch = tasks.recv()
        except (EOFError, OSError):
            return
        if slots is not None:
            pixels = slots[slot, : len(positions)]
        else:
            pixels = torch.empty((len(positions), *row_shape), dtype=torch.uint8)
        result = _result(fill, pixels, positions, epoch)
        with suppress(BrokenPipeError):  # the parent is gone
            try:
                results.send((result, None if slots is not None else pixels.numpy()))
            except (TypeError, AttributeError, PicklingError) as error:  # of which nothing was sent
                results.send((RuntimeError(f"a data worker cannot send its result: {error}"), None))


def _result(fill: Fill, pixels: Tensor, positions: list[int], epoch: int) -> Any:
    """Return the result, or the error in a form that can be sent."""
    try:
        return fill(pixels, positions, epoch)
    except (AgmaxError, MemoryError) as error:
        return error
    except Exception:
        return RuntimeError(f"a data worker failed:\n{traceback.format_exc()}")


def _death_of(worker: _Worker) -> ResourceError:
    worker.process.join(END_SECONDS)
    code, pid = worker.process.exitcode, worker.process.pid
    if code == -signal.SIGKILL:
        what, remedy = "a data worker was killed (often out of memory)", "Lower train.num_workers"
        return ResourceError(what, why=f"process {pid} ended by SIGKILL", remedy=remedy)
    how = f"with code {code}"
    if code is not None and code < 0:
        how = f"by {signal.Signals(-code).name if -code in list(signal.Signals) else f'signal {-code}'}"
    return ResourceError("a data worker has ended", why=f"process {pid} ended {how}")


def _kill(workers: list[_Worker]) -> None:
    """End all workers at once, even stopped and hanging ones: they have nothing to save."""
    for worker in workers:
        worker.process.kill()
        worker.tasks.close()
        worker.results.close()
    deadline = time.monotonic() + END_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))


@contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Hold stop signals back in the block: a new worker ends by none before it has its own handlers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _allow_stop_signals() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
