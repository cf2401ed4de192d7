"""Time programs in turn, so that a busy machine slows them alike."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from agmax.core import devices

REPEATS = 7
"""Every program is timed so often, in turn with the others; the median counts."""

SHORTEST = 0.1
"""Seconds that one timing takes at least."""

PER_IMAGE = "per image"
"""Stands in the names of the programs that transform one image after another."""

Work = Callable[[int], Any]
"""Takes the number of the call, so that no two are alike."""

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
    """Time programs, each given with the views of one call, and return the row of a pipeline (README, `--benchmark`).

    `ours` is one of them. Those that work per image run on one thread of the CPU, as a data worker does, and count as
    often as there are threads. The others work on the device.
    """
    speeds = median_speeds(
        {name: (_alone(work) if PER_IMAGE in name else work, views) for name, (work, views) in programs.items()},
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


def _alone(work: Work) -> Work:
    def on_one_thread(step: int) -> None:
        with one_thread():
            work(step)

    return on_one_thread


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work on one thread, as it does in a data worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def median_speeds(programs: dict[str, tuple[Work, int]], *, device: torch.device = CPU) -> dict[str, float]:
    """Return the views per second of each program, warmed up, of timings that take SHORTEST seconds."""
    calls = {name: _calls(work, device) for name, (work, _) in programs.items()}
    return alternate({name: (*program, calls[name]) for name, program in programs.items()}, REPEATS, device=device)


def alternate(
    programs: dict[str, tuple[Work, int, int]], repeats: int, *, device: torch.device = CPU
) -> dict[str, float]:
    """Return the views per second of each program, the median of its turns; a busy machine slows all alike.

    Each is given with the views of one call and the calls of one turn.
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
    """Return how long calls take until the device has done them, not just until they are launched."""
    devices.synchronize(device)
    started = time.perf_counter()
    for call in calls:
        work(call)
    devices.synchronize(device)
    return time.perf_counter() - started
