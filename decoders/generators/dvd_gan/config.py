"""The settings of DVD-GAN's generator, and the sizes that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from tokenreel.errors import ConfigError

FIRST_SIDE = 4  # pixels of the grid on which a video begins

Normalisation = Literal["batch_time", "batch", "group", "layer", "instance", "none"]


@dataclass(frozen=True)
class AttentionConfig:
    """Separable attention (appendix A), which the published model does not have."""

    after_group: int  # from 1
    residual: bool = False  # add the input; attention then begins with a learned weight of 0 (not in the paper)
    scaled: bool = False  # divide products by the square root of the width (not in the paper)


@dataclass(frozen=True)
class DVDGANConfig:
    """Widths are `width` times a multiplier. Defaults are those of 64 x 64 pixels.

    The paper can be read in two ways. `first_group: keep` has as many groups as multipliers, of which the first stays
    at 4 x 4; with `double` the first multiplier is only the width of the 4 x 4 input, and every group doubles the size.
    """

    type: ClassVar[str] = "dvd-gan"
    width: int = 128  # ch
    multipliers: tuple[int, ...] = (8, 8, 8, 4, 2)  # of the width, coarse to fine
    first_group: Literal["keep", "double"] = "keep"  # keep: one group per multiplier; double: one fewer
    class_conditional: bool = True  # a class is given; the classes are those of the training data
    noise: int = 120  # noise values per clip
    embedding: int = 120  # values per class
    given_frames: int = 0  # first frames that are given (DVD-GAN-FP); 0: none, as in synthesis
    given_multipliers: tuple[int, ...] = ()  # of the width in the network of given frames, fine to coarse
    normalisation: Normalisation = "batch_time"  # batch: over time as well; group, layer, instance: within a frame
    blocks_without_norm: bool = False  # residual blocks only scale and shift, by class and noise (appendix D)
    final_norm: bool = True  # before the last convolution; without it the paper's model did not learn
    attention: AttentionConfig | None = None  # separable attention (appendix A); null: none
    recompute_activations: bool = False  # of groups, in the backward pass: less memory, a third more time

    def __post_init__(self) -> None:
        if len(self.multipliers) < 2 or min(self.width, *self.multipliers, *self.given_multipliers) < 1:
            raise ConfigError(f"width and two or more multipliers must be at least 1, got {self}")
        if min(self.noise, self.embedding) < 1:
            raise ConfigError(f"noise (={self.noise}) and embedding (={self.embedding}) must be at least 1")
        expected = len(self.multipliers) if self.given_frames else 0
        if self.given_frames < 0 or len(self.given_multipliers) != expected:
            raise ConfigError(
                f"given_multipliers (={list(self.given_multipliers)}) must have {expected} values for given_frames "
                f"(={self.given_frames}): as many as multipliers where frames are given, else none"
            )
        if self.attention and not 1 <= self.attention.after_group <= len(self.groups):
            raise ConfigError(
                f"attention.after_group (={self.attention.after_group}) must be between 1 and {len(self.groups)}"
            )

    @property
    def side(self) -> int:
        """Height and width of the videos, in pixels."""
        return FIRST_SIDE << len(self.multipliers) - 1

    @property
    def groups(self) -> list[tuple[int, int, bool]]:
        """Of each group: channels in and out, and whether it doubles height and width."""
        widths = [self.width * multiplier for multiplier in self.multipliers]
        first = [(widths[0], widths[0], False)] if self.first_group == "keep" else []
        return first + [(inputs, outputs, True) for inputs, outputs in pairwise(widths)]

    @property
    def given_widths(self) -> list[int]:
        """Channels after each block of the network of given frames."""
        return [self.width * multiplier for multiplier in self.given_multipliers]
