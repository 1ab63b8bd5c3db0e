"""One step of training: its clips, its updates, and the random numbers of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from tokenreel.data.order import SampleOrder
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.distributed import average_gradients, clip_gradients, seed_from
from tokenreel.pipelines.training.objective import Objective
from tokenreel.pipelines.training.optimizers import learning_rate_factor, set_learning_rate
from tokenreel.pipelines.training.precision import mixed_precision
from tokenreel.pipelines.training.state import TrainingState
from tokenreel.replicas import micro_steps
from tokenreel.sample_random import SampleRandom

GRADIENT_NORM = "gradient_norm_"  # before an update's name


class TrainingStep:
    """Takes steps of `state`, each a function of its number, whatever the number of processes and micro-steps."""

    def __init__(
        self, objective: Objective, config: TrainingConfig, state: TrainingState, accelerator: Accelerator
    ) -> None:
        self.objective = objective
        self.config = config
        self.state = state
        self.accelerator = accelerator
        self.order = SampleOrder(objective.rows, config.seed)
        self.micro_batch = config.micro_batch(accelerator.num_processes)
        self.batches_per_step = 1 + max(objective.update_batches)
        self.clips_per_step = self.batches_per_step * config.batch
        self.main_losses: list[str] = []  # names of those that the first update minimises

    def run(self) -> dict[str, Tensor]:
        """Takes the next step. Returns its losses and gradient norms, means over updates of one name."""
        losses = dict[str, list[Tensor]]()
        step, micros = self.state.step, range(self.config.accumulate)
        self.objective.begin_step(step)
        read, every = self.objective.batch, range(self.batches_per_step)
        batches = [[read(self.rows(step, m, b), self.samples(step, m, b)) for m in micros] for b in every]
        next_step = [(step + 1, micro, batch) for batch in every for micro in micros]
        following = [np.concatenate([of(*part) for part in next_step]) for of in (self.rows, self.samples)]
        self.objective.prefetch(*following)
        if step == 0:
            self._initialise(batches[self.objective.update_batches[0]])
        for number, update in enumerate(self.objective.updates):
            found = self._update(update, batches[self.objective.update_batches[number]], number)
            for name, loss in found.items():
                losses.setdefault(name, []).append(loss)
            if number == 0:
                self.main_losses = [name for name in found if not name.startswith(GRADIENT_NORM)]
        if self.state.average is not None:
            self.state.average.update(step)
        self.state.step += 1
        return {name: torch.stack(each).mean() if len(each) > 1 else each[0] for name, each in losses.items()}

    def _initialise(self, batches: list[Any]) -> None:
        """Lets the objective set from the first step's batch what is initialised from data."""
        randoms = [self._random(0, micro) for micro in range(len(batches))]
        self._seed(0)
        precision = mixed_precision(self.accelerator.device, self.config.precision)
        with torch.no_grad(), precision, micro_steps(range(len(batches)), len(batches)):
            self.objective.initialise(batches, randoms)

    def _update(self, update: str, batches: list[Any], number: int) -> dict[str, Tensor]:
        """Runs the update of that number in the step. Returns its losses, none if the objective skips it."""
        optimizer, losses = self.state.optimizers[update], dict[str, Tensor]()
        set_learning_rate(optimizer, learning_rate_factor(self.config, self.state.step))
        optimizer.zero_grad(set_to_none=True)
        of_batch = self.objective.update_batches[number]
        for micro, batch in enumerate(batches):
            self._seed(number)
            random = self._random(number, micro, of_batch)
            with micro_steps(range(micro, micro + 1), len(batches)):
                self._backward(update, batch, random, losses)
        if losses:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            average_gradients(parameters, self.accelerator)
            losses[f"{GRADIENT_NORM}{update}"] = clip_gradients(parameters, self.config.clip_norm)
            optimizer.step()
        return losses

    def _seed(self, number: int) -> None:
        """Seeds torch's global generator for the update of that number, alike in all processes and micro-steps."""
        torch.manual_seed(seed_from(self.config.seed, self.state.step, number))

    def _random(self, number: int, micro: int, batch: int = 0) -> SampleRandom:
        """Random numbers of the clips of a micro-step of a batch, for the update of that number."""
        samples = self.samples(self.state.step, micro, batch)
        return SampleRandom(seed_from(self.config.seed, number), samples, self.accelerator.device)

    def rows(self, step: int, micro: int, batch: int = 0) -> np.ndarray:
        """The rows, int64 [n], of `samples`."""
        return self.order.rows(int(self.samples(step, micro, batch)[0]), self.micro_batch)

    def samples(self, step: int, micro: int, batch: int = 0) -> np.ndarray:
        """Sample numbers, int64 [n], of this process in a micro-step of a batch: a slice of the common order."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        first = step * self.clips_per_step + batch * self.config.batch + (micro * processes + rank) * self.micro_batch
        return np.arange(first, first + self.micro_batch)

    def _backward(self, update: str, batch: Any, random: SampleRandom, sums: dict[str, Tensor]) -> None:
        """Adds the gradients of a micro-step to the parameters and its losses to `sums`."""
        with mixed_precision(self.accelerator.device, self.config.precision):
            losses = self.objective.losses(update, batch, random)
        if not losses:
            return
        scaled = {name: loss.float() / self.config.accumulate for name, loss in losses.items()}
        torch.stack(list(scaled.values())).sum().backward()
        for name, loss in scaled.items():
            sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()
