"""Full memory: recognize it, say how much there is, and estimate the batch that fits."""

import errno
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

FULL_MEMORY = "the memory is full"
"""What an error says when no memory is left."""

MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED")
"""Parts of the messages of torch's CPU allocator, CUDA, cuBLAS and cuDNN when no memory is left."""

MESSAGE_OF_PILLOW = "out of memory error when "
"""The beginning of the text of Pillow's OSError when no memory is left; other texts of it name the file."""

MEMINFO, GROUP_LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
"""Linux's files of the machine's memory, and of what this container may use: bytes, or `max`."""

GIB = 2**30


def is_full(error: Exception) -> bool:
    """Return whether an error reports a lack of memory, on CPU or GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM or str(error).startswith(MESSAGE_OF_PILLOW)
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES)


def reason(error: Exception, device: torch.device | None = None) -> str:
    """Return the text of such an error, and with `device` the peak of this process and how much there is."""
    text = str(error).partition("\n")[0].removesuffix(".") or "no memory is left"
    if device is None:
        return text
    is_of_cpu = isinstance(error, MemoryError) or "CPUAllocator" in text
    return f"{text}; {_usage_of_cpu() if is_of_cpu or device.type != 'cuda' else _usage_of_gpus()}"


def images_that_fit(
    step: Callable[[int], object], num_images: int, device: torch.device, *, reserve: int = 0
) -> int | None:
    """Estimate the largest batch below `num_images` whose step fits on the GPUs, a multiple of 8; None if unknown.

    `step` performs a step with some images; `reserve` are bytes that it does not use yet but will need. From two small
    steps follows what each image needs, and what is needed without any. On a CPU nothing tells the memory of one step.
    """
    small, double = num_images // 16, num_images // 16 * 2
    if device.type != "cuda" or small < 2:
        return None
    gpus = range(torch.cuda.device_count())
    peaks = []
    with suppress(Exception):
        torch.cuda.empty_cache()
        step(small)  # libraries allocate their workspaces
        for count in (small, double):
            for gpu in gpus:
                torch.cuda.reset_peak_memory_stats(gpu)
            step(count)
            peaks.append([torch.cuda.max_memory_allocated(gpu) for gpu in gpus])
        torch.cuda.empty_cache()
        sizes = []
        for gpu, first, second in zip(gpus, *peaks, strict=True):
            usable = torch.cuda.mem_get_info(gpu)[0] + torch.cuda.memory_allocated(gpu) - reserve
            per_image = (second - first) / (double - small)
            sizes.append((usable - (first - small * per_image)) / per_image)
        size = int(min(sizes)) // 8 * 8
        return size if 8 <= size < num_images else None
    return None


def _usage_of_gpus() -> str:
    texts = []
    for gpu in range(torch.cuda.device_count()):
        peak, total = torch.cuda.max_memory_allocated(gpu) / GIB, torch.cuda.mem_get_info(gpu)[1] / GIB
        texts.append(f"peak {peak:.2f} of {total:.2f} GiB on cuda:{gpu}")
    return ", ".join(texts)


def _usage_of_cpu() -> str:
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
    text = f"peak {peak:.2f} GiB"
    with suppress(OSError, KeyError, ValueError):
        lines = (line.split() for line in MEMINFO.read_text().splitlines())
        kib = {line[0]: int(line[1]) for line in lines}
        available, total = (kib[name] * 1024 / GIB for name in ("MemAvailable:", "MemTotal:"))
        limit = _limit_of_group()
        if limit is not None and limit < total:
            return f"{text}, this container may use {limit:.2f} GiB"
        text += f", {available:.2f} of the machine's {total:.2f} GiB are available"
    return text


def _limit_of_group() -> float | None:
    """Return the GiB that the container may use, None without a limit."""
    with suppress(OSError, ValueError):
        return int(GROUP_LIMIT.read_text()) / GIB
    return None
