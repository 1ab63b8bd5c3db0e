"""Sizes of the runs of CCVS's tables, in the grid that all papers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tokenreel.benchmarks.papers import grid

PIXELS = 64  # along an edge of a frame


@dataclass(frozen=True)
class Sizes:
    """Training steps, and the numbers of videos, frames, clips and samples."""

    tokenizer_steps: int
    prior_steps: int
    videos: int  # of two clips each; a tenth of them is held out
    frames: int  # of a clip
    clips: int  # whose reconstructions are scored
    starts: int  # first frames that samples continue
    samples: int  # for each start, where nothing else is given

    @property
    def data(self) -> str:
        return f"tabletop:?videos={self.videos}&frames={2 * self.frames}&size={PIXELS}"

    @property
    def folder(self) -> str:
        return f"{self.videos}-videos-of-{2 * self.frames}"


Setup: TypeAlias = grid.Setup[Sizes]
Run: TypeAlias = grid.Run[Sizes]
