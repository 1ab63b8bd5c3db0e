"""Device, CPU threads and memory allocator of a command."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

import psutil
import torch

from tokenreel.errors import ConfigError


def choose_device(name: str | None) -> torch.device:
    """The torch device `name`; None: the first GPU if there is one, else the CPU. Raises ConfigError if unavailable."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name!r} is not a valid device; use cpu, cuda or cuda:0") from error
    count = _device_count(device.type)
    if (device.index or 0) >= count:
        raise ConfigError(
            f"--device {name!r} is not available: this machine has {count} {device.type.upper()} "
            f"device{'' if count == 1 else 's'}; use --device cpu"
        )
    return device


def _device_count(kind: str) -> int:
    """The devices of this kind that torch can use; 0 of kinds that compute nothing, such as meta."""
    if kind == "cpu":
        return 1
    if kind == "cuda":
        return torch.cuda.device_count()
    own = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.accelerator.device_count() if own is not None and own.type == kind else 0


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ran_out_of_memory(error: Exception) -> bool:
    """Whether Python or torch, on any device, could not allocate memory. On CPUs torch raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def peak_memory(device: torch.device) -> int:
    """The most bytes so far that were allocated on the GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # which Windows lacks

    unit = 1 if sys.platform == "darwin" else 1024  # bytes; Linux counts KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Within this context torch uses `count` threads (None: no change). Results depend on it in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Lets glibc keep memory that torch frees, for the rest of the process, instead of returning it to the system.

    A training step frees and allocates the same tensors again and again, and mapping their pages anew takes a
    considerable part of it. No effect without glibc.
    """
    if sys.platform != "linux":
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    # Allocations below this size, the largest that every glibc accepts, come from the heap. If it is refused, nothing
    # else is set, as the second option alone would make things worse.
    if set_option is not None and set_option(_MMAP_THRESHOLD, 1 << 25):
        set_option(_TRIM_THRESHOLD, (1 << 31) - 1)  # free bytes at the end of the heap before it shrinks


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
