"""What a run carries from step to step: networks, optimizers, averaged weights, and how many steps are done.

It goes to the tensors of a checkpoint and back. Knows no files, no data and no processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from tokenreel.errors import CheckpointError
from tokenreel.pipelines.training.averaging import WeightAverage
from tokenreel.pipelines.training.config import TrainingConfig
from tokenreel.pipelines.training.objective import Objective
from tokenreel.pipelines.training.optimizers import load_optimizer_tensors, optimizer_tensors


class TrainingState:
    """Puts the objective's networks on `device`, in training mode."""

    def __init__(self, objective: Objective, config: TrainingConfig, device: torch.device) -> None:
        self.networks = objective.networks
        for network in self.networks.values():
            network.to(device).train()
        self.optimizers = objective.optimizers()
        self.parameters = self._parameters_of(self.networks)
        self.average = WeightAverage(self._parameters_of(objective.averaged), config.ema) if config.ema else None
        self.step = 0  # optimizer steps done
        self._names = {parameter: name for name, parameter in self.parameters.items()}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All that the next step depends on, by file of the checkpoint."""
        tensors = {f"network_{name}": network.state_dict() for name, network in self.networks.items()}
        for update, optimizer in self.optimizers.items():
            tensors[f"optimizer_{update}"] = optimizer_tensors(optimizer, self._names)
        return tensors if self.average is None else {**tensors, "average": self.average.tensors}

    def load(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The inverse of `tensors`. Raises CheckpointError where they are of another model."""
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
        """Within it: evaluation mode, averaged weights where the objective wants them, no gradients."""
        with torch.no_grad(), nullcontext() if self.average is None else self.average.applied():
            for network in self.networks.values():
                network.eval()
            yield
            for network in self.networks.values():
                network.train()
