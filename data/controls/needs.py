"""What a control is made of: the raw thing that its coder wants for each frame of a clip. Plain data, no torch.

A need goes to a decode worker as JSON. This module opens no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

ControlInput = np.ndarray | str  # float32 [T, S] of a table, float32 [T, samples] of a sound; a class by its name

STATES = "states.csv"  # beside the metadata of a folder, as `tokenreel tabletop` writes it


@dataclass(frozen=True)
class ClassSource:
    """The name of the clip's class, which the plan knows."""

    type: ClassVar[str] = "class"


@dataclass(frozen=True)
class TableSource:
    """Numbers for each frame of a video, out of a table of the source."""

    type: ClassVar[str] = "table"

    file: str  # a CSV below the data's folder
    columns: tuple[str, ...]


@dataclass(frozen=True)
class SoundSource:
    """The sound that begins when a frame appears, a window for each frame."""

    type: ClassVar[str] = "sound"

    rate: int  # samples a second
    samples: int  # of a window
    frame_rate: float  # frames a second that the coder is made for


ControlSource = ClassSource | TableSource | SoundSource


@dataclass(frozen=True, eq=False)
class ControlRequest:
    """What a decode pool is asked for: of each tick of a video's resampled timeline, what the need says."""

    video: int  # index into the source's entries
    need: TableSource | SoundSource
    ticks: np.ndarray  # int64 [m] ascending
    source_frames: np.ndarray  # int64 [m], the source frame that each tick shows
    frame_rate: float | None  # of the timeline; None: the source's own frames are the ticks


class ControlStreamEncoder(Protocol):
    """Makes the codes of a clip's tracks out of raw controls."""

    @property
    def needs(self) -> Mapping[str, ControlSource]:
        """By track."""

    def encode(self, raw: Mapping[str, ControlInput]) -> Mapping[str, np.ndarray]:
        """Control inputs of one clip -> int64 [t, h, w, q], both by name. Raises DataError where they do not fit."""
