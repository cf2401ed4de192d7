"""The one place that chooses devices and number formats, and puts a model on several GPUs."""

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
"""Of glibc's malloc.h."""

BIT_EXACT_KEYS = ("device", "device_name", "num_gpus", "threads", "cpu_capability", "precision")
"""What a continued training must find as it was, to come to the same bits (keys of `machine`)."""


def choose_device(request: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`; auto is the visible GPUs, else the CPU.

    Raises:
        ResourceError: a GPU is asked for, here or by CUDA_VISIBLE_DEVICES, and is not there.
    """
    if request == "cpu":
        return torch.device("cpu")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    num_asked = 0 if visible in ("", "-1", "NoDevFiles") else len(visible.split(","))
    num_found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_asked > num_found:
        why = f"{num_found} of these GPUs can be used"
        remedy = "Name GPUs that nvidia-smi lists, or give --device cpu"
        raise ResourceError("GPU not there", where=f"CUDA_VISIBLE_DEVICES={visible}", why=why, remedy=remedy)
    if request == "cuda" and not num_found:
        raise ResourceError(
            "GPU not there", where="train.device=cuda", why="torch finds none", remedy="Give --device cpu"
        )
    return torch.device("cuda" if num_found else "cpu")


def device_name(device: torch.device) -> str:
    """Name the devices in use, for the first line of a training."""
    if device.type == "cpu":
        return f"the CPU ({torch.get_num_threads()} threads)"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{len(names)} GPU{'s' if len(names) > 1 else ''} ({', '.join(names)})"


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the number format of `fp32`, `bf16` or `auto` for autocast; None is float32."""
    use_bf16 = precision == "bf16" or (precision == "auto" and _bf16_is_fast(device))
    return torch.bfloat16 if use_bf16 else None


def dtype_name(autocast: torch.dtype | None) -> str:
    """Return `bf16` or `fp32`."""
    return "bf16" if autocast == torch.bfloat16 else "fp32"


def machine(device: torch.device, autocast: torch.dtype | None) -> dict[str, Any]:
    """Describe the device, for the record: bits are the same only where all of this is."""
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
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all that was launched; a CPU has done it already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def num_workers(asked: int | None) -> int:
    """Return how many processes decode files: what is asked, or one for each usable core, at most 8."""
    if asked is not None:
        return asked
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 8)


def choose_algorithms(*, deterministic: bool) -> None:
    """Let a GPU take its fastest algorithms, or those that give the same bits at every run; the CPU's always do."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def keep_freed_memory() -> None:
    """Let the C library keep what tensors have given back, for the next step.

    By its default glibc returns large blocks to the system and asks for them again at every step, which costs a small
    network on a CPU a tenth of its time, and the evaluation of a large one nearly half. Other C libraries are left as
    they are.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model on all visible GPUs where there are several; its weights stay those of `model`."""
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        return nn.DataParallel(model)
    return model


def prefetch(samples: Iterator[RawBatch], device: torch.device) -> Generator[RawBatch, None, None]:
    """Deliver samples in their order; a GPU gets the next one copied while it works on the present one.

    The copies go from pinned memory through a stream of their own, and what goes wrong with the next sample is raised
    before the present one is delivered. A CPU gets the very samples.
    """
    if device.type != "cuda":
        yield from samples
        return
    stream = torch.cuda.Stream(device)
    ahead: tuple[RawBatch, torch.cuda.Event] | None = None
    for sample in samples:
        with torch.cuda.stream(stream):
            images, labels = (part.to(device, non_blocking=True) for part in (sample.images, sample.labels))
            following = sample._replace(images=images, labels=labels), stream.record_event()
        if ahead is not None:
            yield _wait_for_copy(*ahead)
        ahead = following
    if ahead is not None:
        yield _wait_for_copy(*ahead)


def _wait_for_copy(sample: RawBatch, copied: torch.cuda.Event) -> RawBatch:
    """Let the present stream wait for the copy, and the allocator for the present stream."""
    present = torch.cuda.current_stream(sample.images.device)
    present.wait_event(copied)
    for part in (sample.images, sample.labels):
        part.record_stream(present)
    return sample
