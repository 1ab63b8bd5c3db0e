"""Spectral normalisation (Miyato et al. 2018, https://arxiv.org/abs/1802.05957), advanced once per forward pass.

torch's runs a power iteration whenever a weight is read in training mode. So activation checkpointing, which reads
weights again in the backward pass, would compute with other weights (torch notices and raises), and a recurrent layer
would iterate at every time step. On GPUs its products are also of 16 bits under autocast.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

FIRST_ITERATIONS = 15  # from random vectors, as in torch
LAST_ITERATIONS = 50  # before sigma is fixed


class SpectralNorm(nn.Module):
    """Parametrization: a weight [rows, ...] divided by its largest singular value as an [rows, columns] matrix, which
    the vectors u and v estimate.
    """

    u: Tensor  # [rows]
    v: Tensor  # [columns]

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        for name, size in zip("uv", weight.flatten(1).shape, strict=True):
            self.register_buffer(name, weight.detach().new_empty(size).normal_())
        self.advance(weight, FIRST_ITERATIONS)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.is_meta:  # no values; there each operation takes a millisecond
            return weight
        u, v = self.u.clone(), self.v.clone()  # they may advance, in place, before the backward pass
        return weight / (u[:, None] * weight.flatten(1) * v).sum()  # not in 16 bits under autocast, as products are

    @torch.no_grad()
    def advance(self, weight: Tensor, iterations: int) -> None:
        """Power iterations, in fp32 under autocast too."""
        if weight.is_meta:
            return
        matrix = weight.flatten(1)
        with torch.autocast(weight.device.type, enabled=False):
            for _ in range(iterations):
                self.u.copy_(functional.normalize(matrix.mv(self.v), dim=0))
                self.v.copy_(functional.normalize(matrix.T.mv(self.u), dim=0))


def initialise(network: nn.Module, unnormalised: tuple[nn.Module, ...] = ()) -> None:
    """Orthogonal weights and zero biases for all convolutions and linear layers, each with its spectral norm except the
    `unnormalised` ones.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if module not in unnormalised:
                parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight))


def advance(network: nn.Module, iterations: int = 1) -> None:
    """Power iterations of all its weights."""
    for module in _normalised(network):
        weight: nn.ModuleList = module.parametrizations["weight"]  # type: ignore[assignment,index]
        weight[0].advance(weight.original, iterations)  # type: ignore[operator]


def bake(network: nn.Module) -> None:
    """Replaces every normalised weight by its value, with sigma converged: the layers are plain ones then.

    torch's `remove_parametrizations` changes a class that a module shares with its deep copies, and breaks those.
    """
    advance(network, LAST_ITERATIONS)
    for module in list(_normalised(network)):
        value = module.weight.detach()  # type: ignore[operator]
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]  # the plain layer
        module.register_parameter("weight", nn.Parameter(value))


def is_normalised(network: nn.Module) -> bool:
    return any(True for _ in _normalised(network))


def _normalised(network: nn.Module) -> Iterator[nn.Module]:
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            yield module
