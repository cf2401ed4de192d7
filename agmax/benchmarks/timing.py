"""Time programs in turn, so that other load on the machine affects all of them equally."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from agmax.core import devices

REPEATS = 7
"""Number of timings of each program, in turn with the others; the median is reported."""

SHORTEST = 0.1
"""Smallest duration of one timing, in seconds."""

PER_IMAGE = "per image"
"""Part of the names of programs that transform one image after another."""

Work = Callable[[int], Any]
"""A function of the number of the call, from which it draws random numbers."""

CPU = torch.device("cpu")


def time_programs(
    pipeline: str,
    size: int,
    batch_size: int,
    threads: int,
    programs: dict[str, tuple[Work, int]],
    *,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """Time programs, each with the number of views of one call, and return the row of a pipeline (docs/benchmarks.md).

    One of them is `ours`. Programs that work per image run on one thread of the CPU, as in a data worker, and their
    speed is multiplied by `threads`. The others run on the device.
    """
    speeds = median_speeds(
        {
            name: (_on_one_thread(work) if PER_IMAGE in name else work, views)
            for name, (work, views) in programs.items()
        },
        device=device,
    )
    scaled = {name: speed * (threads if PER_IMAGE in name else 1) for name, speed in speeds.items()}
    ours, per_image = scaled.pop("ours"), scaled.pop("torchvision PIL per image", None)
    return {
        "pipeline": pipeline,
        "device": device.type,
        "image_size": size,
        "batch_size": batch_size,
        "threads": threads,
        "views_per_second": ours,
        "per_image_views_per_second": per_image,
        "ratio": ours / per_image if per_image else None,
        "others": scaled,
    }


def _on_one_thread(work: Work) -> Work:
    def run_limited(step: int) -> None:
        with one_thread():
            work(step)

    return run_limited


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread, as in a data worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def median_speeds(programs: dict[str, tuple[Work, int]], *, device: torch.device = CPU) -> dict[str, float]:
    """Warm up and return the views per second of each program, from timings of about SHORTEST seconds."""
    calls = {name: _calls(work, device) for name, (work, _) in programs.items()}
    return alternate({name: (*program, calls[name]) for name, program in programs.items()}, REPEATS, device=device)


def alternate(
    programs: dict[str, tuple[Work, int, int]], repeats: int, *, device: torch.device = CPU
) -> dict[str, float]:
    """Return the views per second of each program, the median of `repeats` timings in turn.

    Each program comes with the number of views of one call and the number of calls of one timing.
    """
    speeds: dict[str, list[float]] = {name: [] for name in programs}
    for repeat in range(repeats):
        for name, (work, views, calls) in programs.items():
            seconds = _seconds(work, range(1 + repeat * calls, 1 + (repeat + 1) * calls), device)
            speeds[name].append(views * calls / seconds)
    return {name: float(np.median(values)) for name, values in speeds.items()}


def _calls(work: Work, device: torch.device) -> int:
    """Warm up, and return how many calls take SHORTEST seconds."""
    work(0)
    return max(1, int(SHORTEST / max(_seconds(work, range(1), device), 1e-6)))


def _seconds(work: Work, calls: range, device: torch.device) -> float:
    """Return the seconds of calls until the device has finished them."""
    devices.synchronize(device)
    started = time.perf_counter()
    for call in calls:
        work(call)
    devices.synchronize(device)
    return time.perf_counter() - started
