"""Full memory: recognize it, say how much there is, and estimate the batch that fits."""

import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

WHAT = "the memory is full"

MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED")
"""Parts of the messages of torch's CPU allocator, CUDA, cuBLAS and cuDNN when no memory is left."""

GIB = 2**30


def is_full(error: Exception) -> bool:
    """Return whether an error reports a lack of memory, on CPU or GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB  # Linux counts in KiB
    text = f"peak {peak:.2f} GiB"
    with suppress(OSError, KeyError, ValueError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        kib = {line[0]: int(line[1]) for line in lines}
        available, total = (kib[name] * 1024 / GIB for name in ("MemAvailable:", "MemTotal:"))
        text += f", {available:.2f} of the machine's {total:.2f} GiB are available"
    return text
