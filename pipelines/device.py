"""Which device a command computes on, and with how many threads."""

from __future__ import annotations

import contextlib
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
