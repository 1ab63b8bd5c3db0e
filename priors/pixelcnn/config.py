"""Settings of the two PixelCNN priors; what follows from the token spec (grids, codebooks) is not among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tokenreel.errors import ConfigError


@dataclass(frozen=True)
class PixelCNNConfig:
    """Sizes as in tables 4, 5 and 6 of the paper, whose names are in brackets."""

    embedding: int  # width of a token's input vector
    hidden: int  # width of both stacks (hidden units)
    residual: int  # output channels of the stacks' convolutions (residual units); half gate the other half; even
    layers: int  # gated residual layers
    heads: int  # of attention
    kernel: int  # side of the filters, odd (conv filter size)
    condition_hidden: int  # width of the conditioning stack (hidden units)
    condition_residual: int  # width inside its residual blocks (residual units)
    condition_blocks: int  # residual blocks
    attention_every: int = 5  # number of layers from one attention to the next
    dropout: float = 0.0  # of what is added to the stacks

    def __post_init__(self) -> None:
        for name in ("embedding", "residual", "condition_hidden", "condition_residual", "condition_blocks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} (={getattr(self, name)}) must be at least 1")
        for name in ("residual", "condition_hidden"):
            if getattr(self, name) % 2:
                raise ConfigError(f"{name} (={getattr(self, name)}) must be even, as it is split in two halves")
        if self.heads < 1 or self.hidden < 6 or self.hidden % self.heads:
            raise ConfigError(f"hidden (={self.hidden}) must be at least 6 and a multiple of heads (={self.heads})")
        if self.kernel < 3 or self.kernel % 2 == 0:
            raise ConfigError(f"kernel (={self.kernel}) must be odd and at least 3")
        if not 1 <= self.attention_every <= self.layers:
            raise ConfigError(
                f"attention_every (={self.attention_every}) must be between 1 and layers (={self.layers}): "
                "without attention some tokens would have no effect"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout (={self.dropout}) must be at least 0 and below 1")


@dataclass(frozen=True)
class TopPixelCNNConfig(PixelCNNConfig):
    """Sizes of the top prior: table 4's first column and table 5."""

    type: ClassVar[str] = "pixelcnn-top"


@dataclass(frozen=True)
class BottomPixelCNNConfig(PixelCNNConfig):
    """Sizes of the bottom prior: table 4's second column and table 6."""

    type: ClassVar[str] = "pixelcnn-bottom"
