"""The state that a run carries from step to step, to and from the tensors of a checkpoint: networks, optimizers,
averaged weights and the number of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from tokenreel.errors import CheckpointError
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.objective import Objective
from tokenreel.pipelines.training.optimizers import load_optimizer_tensors, optimizer_tensors


class WeightAverage:
    """Exponential moving average: average <- decay * average + (1 - decay) * weights after each step.

    The decay of step n is at most (1 + n) / (10 + n), so that short runs do not keep their initial weights. With a
    `start` it is constant, and before that step the average is the current weights, as in BigGAN.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float, start: int = 0) -> None:
        self.parameters = dict(parameters)
        self.decay = decay
        self.start = start
        self.tensors = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adds the weights after step `step`, counted from 0."""
        ramp = float(step >= self.start) if self.start else (1 + step) / (10 + step)
        decay = min(self.decay, ramp)
        for name, average in self.tensors.items():
            average.lerp_(self.parameters[name], 1.0 - decay)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, average in self.tensors.items():
            average.copy_(tensors[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the networks hold the averaged weights; buffers such as codebooks are unchanged.

        Averaging codebooks as well, as CCVS's code does, gains nothing (docs/log.md).
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self.tensors.items():
            weights = self.parameters[name].clone()
            self.parameters[name].copy_(average)
            average.copy_(weights)


class TrainingState:
    """Moves the objective's networks to `device`, in training mode."""

    def __init__(self, objective: Objective, config: TrainingConfig, device: torch.device) -> None:
        self.networks = objective.networks
        for network in self.networks.values():
            network.to(device).train()
        self.optimizers = objective.optimizers()
        self.parameters = self._parameters_of(self.networks)
        averaged = self._parameters_of(objective.averaged_networks)
        start = objective.average_start
        self.average = WeightAverage(averaged, config.ema_decay, start) if config.ema_decay else None
        self.step = 0  # completed optimizer steps
        self._names = {parameter: name for name, parameter in self.parameters.items()}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All tensors that the next step depends on, by file of the checkpoint."""
        tensors = {f"network_{name}": network.state_dict() for name, network in self.networks.items()}
        for update, optimizer in self.optimizers.items():
            tensors[f"optimizer_{update}"] = optimizer_tensors(optimizer, self._names)
        return tensors if self.average is None else {**tensors, "average": self.average.tensors}

    def load(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The inverse of `tensors`. Raises CheckpointError for the tensors of another model."""
        try:
            for name, network in self.networks.items():
                network.load_state_dict(tensors[f"network_{name}"])
            for update, optimizer in self.optimizers.items():
                load_optimizer_tensors(optimizer, self._names, tensors[f"optimizer_{update}"])
            if self.average is not None:
                self.average.load(tensors["average"])
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint of step {step} does not fit the model: {error}") from error
        self.step = step

    def _parameters_of(self, networks: Iterable[str]) -> dict[str, Tensor]:
        return {f"{name}.{key}": tensor for name in networks for key, tensor in self.networks[name].named_parameters()}

    def count_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within this context: evaluation mode, averaged weights if there are any, no gradients."""
        with torch.no_grad(), nullcontext() if self.average is None else self.average.applied():
            for network in self.networks.values():
                network.eval()
            yield
            for network in self.networks.values():
                network.train()
