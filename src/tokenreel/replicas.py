"""What is computed over the whole batch of a training step, whose clips are spread over data-parallel processes and
over micro-steps (gradient accumulation), so that codebooks do not depend on how a batch is split.

Without an initialised process group there is one process; outside of `micro_steps` a step has one micro-step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

_ALONE = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Within this context the process computes as if there were no others, which may be doing something else."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


@dataclass(frozen=True)
class _Covered:
    """The micro-steps of a step whose clips the model is given."""

    micro_steps: range = range(1)
    count: int = 1  # of all micro-steps of the step


_covered = _Covered()


@contextmanager
def micro_steps(covered: range, count: int) -> Iterator[None]:
    """Within this context the model is given the clips of the micro-steps `covered` out of a step's `count`."""
    global _covered
    outside, _covered = _covered, _Covered(covered, count)
    try:
        yield
    finally:
        _covered = outside


def process_count() -> int:
    """Number of data-parallel processes."""
    if _ALONE.get():
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(*tensors: Tensor) -> list[Tensor]:
    """The float tensors summed over all processes, in one collective operation, whose size must be the same in all."""
    if process_count() == 1:
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of the processes' tensors, in a micro-step. Its value is the same in all; its gradient is that of the
    own tensor, so that gradients averaged over the processes are those of the mean.
    """
    if process_count() == 1:
        return tensor
    (total,) = sum_over_processes(tensor.detach())
    return tensor + (total / process_count() - tensor).detach()


class StepSums:
    """Sums over all clips of a step, for state that moves once per step."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._next = 0  # the micro-step that is to be added; 0: nothing is pending

    def add(self, *tensors: Tensor) -> list[Tensor] | None:
        """Adds float tensors of a micro-step, the same number and sizes in each. Returns the sums over all processes
        and micro-steps in the step's last micro-step, and None before it.

        Raises RuntimeError if a micro-step is added twice.
        """
        now = _covered.micro_steps
        if now.start not in (0, self._next):
            raise RuntimeError(
                f"micro-step {now.start} was added when {self._next} was expected: with training.accumulate above 1 a "
                "training pass must use each quantizer exactly once"
            )
        sums = [a + b for a, b in zip(self._sums, tensors, strict=True)] if now.start else list(tensors)
        if now.stop < _covered.count:
            self._sums, self._next = sums, now.stop
            return None
        self._sums, self._next = [], 0
        return sum_over_processes(*sums)


def sample_rows(rows: Tensor, count: int) -> Tensor:
    """This call's part of `count` random rows of all the step's rows: of `rows` [N, d] of all processes and
    micro-steps. Zeros for rows of other calls.

    Summed over the step it is [count, d], and what one process samples of all rows in one micro-step. Too few rows are
    repeated. N, and the state of torch's global generator, must be the same in all processes and micro-steps.
    """
    processes, first = process_count(), _covered.micro_steps.start
    size = len(rows) // len(_covered.micro_steps)  # of a micro-step in a process
    shuffled = torch.randperm(size * processes * _covered.count, device=rows.device)
    sampled = shuffled[torch.arange(count, device=rows.device) % len(shuffled)]
    part, row = sampled // size, sampled % size  # parts are in the order of clips: by micro-step, then by process
    own = ((part // processes) - first) * size + row
    elsewhere = (own < 0) | (own >= len(rows))
    if processes > 1:
        elsewhere |= part % processes != dist.get_rank()
    return rows[own.masked_fill(elsewhere, 0)].masked_fill(elsewhere[:, None], 0.0)
