"""Data-parallel training: seeds, averaged gradients, what processes agree on, and a check that their models are equal.

Gradients are averaged by one flat all-reduce after accumulation, not by DistributedDataParallel, which hooks `forward`
only: here an objective may call any method, leave parameters unused and have several optimizers. The cost is no overlap
with the backward pass, and one more copy of the gradients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from tokenreel.errors import UserError

NO_LIMIT = timedelta(days=365)

T = TypeVar("T")


def seed_from(*numbers: int) -> int:
    """A 63-bit seed derived from `numbers`, such as (seed, step, update)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def average_gradients(parameters: Sequence[Tensor], accelerator: Accelerator) -> None:
    """Replaces every gradient by its mean over processes.

    A gradient that is None counts as zero if another process has one, and stays None if none has, so that optimizers
    skip the same parameters as in a single process.
    """
    if accelerator.num_processes == 1:
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=accelerator.device)
    flat = torch.cat([used, *(_gradient(p).reshape(-1).float() for p in parameters)])
    flat = accelerator.reduce(flat, reduction="mean")
    used_fractions = flat[: len(parameters)].tolist()
    gradients = flat[len(parameters) :].split([p.numel() for p in parameters])
    for parameter, used_fraction, gradient in zip(parameters, used_fractions, gradients, strict=True):
        parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if used_fraction else None


def clip_gradients(parameters: Sequence[Tensor], max_norm: float | None) -> Tensor:
    """Scales the gradients down to `max_norm` (None: no limit). Returns their norm before that, a scalar."""
    return torch.nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def require_equal_replicas(tensors: Mapping[str, Tensor], accelerator: Accelerator) -> None:
    """Raises RuntimeError in every process unless the hashes of `tensors` agree in all of them."""
    if accelerator.num_processes == 1:
        return
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    number = int.from_bytes(digest.digest()[:6], "big")
    extremes = accelerator.reduce(torch.tensor([number, -number], device=accelerator.device), reduction="max")
    if extremes[0] != -extremes[1]:
        raise RuntimeError(
            "the processes hold different weights or buffers: a network updates itself from its local batch only; "
            "reduce its statistics over all processes"
        )


class Processes:
    """What the processes of a run agree on, over a group of their CPUs: no device waits for it, and unlike the group of
    the gradients it has no time limit, so that validation may take as long as it takes.

    All processes must call the methods in the same order.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.alone = accelerator.num_processes == 1

    @cached_property
    def _group(self) -> dist.ProcessGroup:
        return dist.new_group(backend="gloo", timeout=NO_LIMIT)

    def start_any(self, flag: bool) -> Callable[[], bool]:
        """Starts to ask whether `flag` is set in any process; the function that is returned waits for the answer."""
        if self.alone:
            return lambda: flag
        answer = torch.tensor([int(flag)])
        work = dist.all_reduce(answer, dist.ReduceOp.MAX, self._group, async_op=True)

        def wait() -> bool:
            work.wait()
            return bool(answer.item())

        return wait

    def in_main(self, action: Callable[[], T]) -> T | None:
        """Runs `action` in the main process, while the others wait. Returns its result there, None in the others.

        If it raises, all processes do: the others UserError.
        """
        return self._agreed(action if self._accelerator.is_main_process else lambda: None)

    def gather(self, action: Callable[[], T]) -> list[T]:
        """Runs `action` in all processes. Returns the results of all in the main process, [] in the others. They travel
        as pickles, between the processes of a run only.

        If it raises in any, all processes do: the others UserError.
        """
        result, main = self._agreed(action), self._accelerator.is_main_process
        if self.alone:
            return [result]
        results: list[Any] = [None] * self._accelerator.num_processes if main else []
        dist.gather_object(result, results or None, group=self._group)
        return results

    def _agreed(self, action: Callable[[], T]) -> T:
        """Runs `action`. Raises what it raises, and UserError where it raises in another process."""
        result, error = cast(T, None), None
        try:
            result = action()
        except Exception as raised:
            error = raised
        failed = self.start_any(error is not None)()
        if error is not None:
            raise error
        if failed:
            raise UserError("stopped with another process, which says why")
        return result


class StopVote:
    """Whether any process has been asked to stop; all must stop at the same step.

    Several processes read the answer one step late, when it has long arrived, so that no step waits for it.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._answer: Callable[[], bool] | None = None

    def ask(self, requested: bool) -> bool:
        """Called by all processes after each step: whether to stop now."""
        if self._processes.alone:
            return requested
        stop = self.close()
        self._answer = None if stop else self._processes.start_any(requested)
        return stop

    def close(self) -> bool:
        """Waits for the last answer, if there is one to come."""
        answer, self._answer = self._answer, None
        return answer is not None and answer()
