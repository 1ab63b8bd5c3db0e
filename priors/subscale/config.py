"""The settings of the subscale transformer. What follows from the tokens (grid, codebooks, codes) is not among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tokenreel.errors import ConfigError


@dataclass(frozen=True)
class SubscaleTransformerConfig:
    """The paper's names in brackets; its sizes are in the presets `lvt-*-paper*`."""

    type: ClassVar[str] = "subscale-transformer"
    subscale: tuple[int, int, int]  # (st, sh, sw): single frame (T, 1, 1), spatial (1, 2, 2), spatiotemporal (4, 2, 2)
    kernel: tuple[int, int, int]  # steps, rows, columns that the encoder's convolution covers around each place; odd
    depth: int  # blocks of the encoder, and of the decoder as well
    width: int  # D (d)
    heads: int
    head_width: int  # (d_a)
    embedding: int  # width of a code's vector where it comes in (d_e)
    attention: Literal["query-key", "key", "relative"] = "query-key"  # section 4.4; relative distance is in each
    tied: Literal["none", "embeddings", "projections"] = "none"  # appendix A: what input and (adaptive) softmax share
    adaptive_input: bool = False  # appendix A: rare codes have narrower vectors, where they come in
    adaptive_softmax: bool = False  # appendix A: rare codes are predicted in two steps
    cutoffs: tuple[int, ...] = ()  # ranks by frequency at which a rarer cluster begins, for both adaptive options

    def __post_init__(self) -> None:
        for name in ("depth", "width", "heads", "head_width", "embedding"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} (={getattr(self, name)}) must be at least 1")
        if self.width < 6:
            raise ConfigError(f"width (={self.width}) must be at least 6: a sine and a cosine for each of three axes")
        if bool(self.cutoffs) != (self.adaptive_input or self.adaptive_softmax):
            raise ConfigError(
                f"cutoffs (={self.cutoffs}) belong to adaptive_input (={self.adaptive_input}) and adaptive_softmax "
                f"(={self.adaptive_softmax}): give them with either, and only then"
            )
        if self.tied == "projections" and not (self.adaptive_input and self.adaptive_softmax):
            raise ConfigError("tied: projections needs adaptive_input and adaptive_softmax, which have the projections")
        if self.tied == "embeddings" and self.adaptive_input != self.adaptive_softmax:
            raise ConfigError(
                "tied: embeddings needs adaptive_input and adaptive_softmax both or neither: vectors differ in width"
            )
