"""What the networks of the generator and the discriminators have in common: their activation and initial weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from tokenreel.decoders.generators.inbetweening.config import Init

SLOPE = 0.2  # of the leaky ReLUs
DEVIATION = 0.02  # of initial weights, as in DCGAN; the paper does not say
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose3d)


def activate(x: Tensor) -> Tensor:
    """h of the paper."""
    return functional.leaky_relu(x, SLOPE)


def initialise(network: nn.Module, init: Init) -> None:
    """Sets the weights of convolutions; linear layers keep those of torch."""
    if init == "torch":
        return
    for layer in network.modules():
        if isinstance(layer, CONVOLUTIONS):
            nn.init.normal_(layer.weight, std=DEVIATION)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
