"""Settings of the subscale transformer; what follows from the token spec (grid, codebooks) is not among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tokenreel.errors import ConfigError


@dataclass(frozen=True)
class SubscaleTransformerConfig:
    """The paper's names are in brackets; its sizes are in the presets `lvt-*-paper*`."""

    type: ClassVar[str] = "subscale-transformer"
    subscale: tuple[int, int, int]  # (st, sh, sw): single frame (T, 1, 1), spatial (1, 2, 2), spatiotemporal (4, 2, 2)
    kernel: tuple[int, int, int]  # of the encoder's convolution: steps, rows, columns around each location; odd
    depth: int  # blocks of the encoder, and of the decoder
    width: int  # D (d)
    heads: int  # of attention
    head_width: int  # (d_a)
    embedding: int  # width of a token's input vector (d_e)
    attention: Literal["query-key", "key", "relative"] = "query-key"  # section 4.4; each has relative distances
    tied: Literal["none", "embeddings", "projections"] = "none"  # appendix A: weights that input and softmax share
    adaptive_input: bool = False  # appendix A: rare tokens have narrower input vectors
    adaptive_softmax: bool = False  # appendix A: rare tokens are predicted in two steps
    cutoffs: tuple[int, ...] = ()  # ranks by frequency at which the next cluster begins, for both adaptive options

    def __post_init__(self) -> None:
        for name in ("depth", "width", "heads", "head_width", "embedding"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} (={getattr(self, name)}) must be at least 1")
        if self.width < 6:
            raise ConfigError(f"width (={self.width}) must be at least 6: a sine and a cosine for each of three axes")
        if bool(self.cutoffs) != (self.adaptive_input or self.adaptive_softmax):
            raise ConfigError(
                f"cutoffs (={self.cutoffs}) must be set if and only if adaptive_input (={self.adaptive_input}) or "
                f"adaptive_softmax (={self.adaptive_softmax}) is"
            )
        if self.tied == "projections" and not (self.adaptive_input and self.adaptive_softmax):
            raise ConfigError("tied: projections requires adaptive_input and adaptive_softmax")
        if self.tied == "embeddings" and self.adaptive_input != self.adaptive_softmax:
            raise ConfigError("tied: embeddings requires adaptive_input and adaptive_softmax both or neither")
