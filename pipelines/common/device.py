"""Which device a command computes on, with how many threads, and what becomes of memory that is freed."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

from tokenreel.errors import ConfigError


def choose_device(name: str | None) -> torch.device:
    """`name` as torch spells devices; None takes the first GPU if there is one. ConfigError if it is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name!r} is no device; use cpu, cuda or cuda:0") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    return device


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """`count` torch threads inside; None leaves them as they are. Results depend on it in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Has the C library keep what torch frees, for the rest of the process, instead of giving it back to the system.

    A training step frees and takes the same tensors again and again; fetching their pages anew each time took a fifth
    of a step of the subscale transformer. Of glibc only; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    # tensors below this many bytes, the most that every glibc takes, come out of the heap; one that refuses it is left
    # as it is, for the second option alone would make things worse
    if set_option is not None and set_option(_MMAP_THRESHOLD, 1 << 25):
        set_option(_TRIM_THRESHOLD, (1 << 31) - 1)  # free bytes at the end of the heap before it shrinks


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
