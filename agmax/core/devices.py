"""Choose devices and dtypes, and run a model on several GPUs; no other module does."""

import ctypes
import os
import platform
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from agmax.core.batch import RawBatch
from agmax.core.errors import ResourceError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Option numbers from glibc's malloc.h."""

BIT_EXACT_KEYS = ("device", "device_name", "num_gpus", "threads", "cpu_capability", "precision")
"""Keys of `machine` that must be unchanged for a resumed training to give the same bits."""


def choose_device(request: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`; `auto` means the visible GPUs, else the CPU.

    Raises:
        ResourceError: a GPU is requested, here or by CUDA_VISIBLE_DEVICES, and torch does not find it.
    """
    if request == "cpu":
        return torch.device("cpu")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    num_requested = 0 if visible in ("", "-1", "NoDevFiles") else len(visible.split(","))
    num_usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_requested > num_usable:
        why = f"torch can use {num_usable} of these GPUs"
        remedy = "Name GPUs that nvidia-smi lists, or give --device cpu"
        raise ResourceError("GPU not found", where=f"CUDA_VISIBLE_DEVICES={visible}", why=why, remedy=remedy)
    if request == "cuda" and not num_usable:
        raise ResourceError(
            "GPU not found", where="train.device=cuda", why="torch finds none", remedy="Give --device cpu"
        )
    return torch.device("cuda" if num_usable else "cpu")


def device_name(device: torch.device) -> str:
    """Return a text that names the devices in use, for the first line of a training."""
    if device.type == "cpu":
        return f"the CPU ({torch.get_num_threads()} threads)"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{len(names)} GPU{'s' if len(names) > 1 else ''} ({', '.join(names)})"


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast dtype for the precision `fp32`, `bf16` or `auto`; None means float32."""
    use_bf16 = precision == "bf16" or (precision == "auto" and _bf16_is_fast(device))
    return torch.bfloat16 if use_bf16 else None


def dtype_name(autocast: torch.dtype | None) -> str:
    """Return the name of an autocast dtype: `bf16` or `fp32`."""
    return "bf16" if autocast == torch.bfloat16 else "fp32"


def machine(device: torch.device, autocast: torch.dtype | None) -> dict[str, Any]:
    """Return a description of the device for the run's record; the bits of a training depend on all of it."""
    is_gpu = device.type == "cuda"
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if is_gpu else platform.processor(),
        "num_gpus": torch.cuda.device_count() if is_gpu else 0,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "precision": dtype_name(autocast),
    }


def _bf16_is_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished all launched work; do nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def num_workers(requested: int | None) -> int:
    """Return the number of worker processes: as requested, or else one for each usable core, at most 8."""
    if requested is not None:
        return requested
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 8)


def choose_algorithms(*, deterministic: bool) -> None:
    """Choose deterministic or the fastest algorithms on a GPU; those of the CPU are always deterministic."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step.

    By default glibc returns large blocks to the system and requests them again at every step. That costs a small
    network on a CPU a tenth of its time, and the evaluation of a large one nearly half. Other C libraries are not
    changed.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model wrapped for all visible GPUs if there are several; it shares its weights with `model`."""
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        return nn.DataParallel(model)
    return model


def prefetch(batches: Iterator[RawBatch], device: torch.device) -> Generator[RawBatch, None, None]:
    """Yield batches in order; the next one is copied to the GPU while it works on the current one.

    Copies run from pinned memory on a separate stream. An error of the next batch is raised before the current one is
    yielded. On a CPU the batches are passed through.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    current: tuple[RawBatch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            images, labels = (part.to(device, non_blocking=True) for part in (batch.images, batch.labels))
            following = batch._replace(images=images, labels=labels), stream.record_event()
        if current is not None:
            yield _wait_for_copy(*current)
        current = following
    if current is not None:
        yield _wait_for_copy(*current)


def _wait_for_copy(batch: RawBatch, copy_done: torch.cuda.Event) -> RawBatch:
    """Let the current stream wait for the copy, and the allocator wait for the current stream."""
    stream = torch.cuda.current_stream(batch.images.device)
    stream.wait_event(copy_done)
    for part in (batch.images, batch.labels):
        part.record_stream(stream)
    return batch
