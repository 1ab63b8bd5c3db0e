"""The inputs of controls for each frame of a clip, and where they come from. Plain data, no torch.

A control source is sent to a decode worker as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

ControlInput = np.ndarray | str  # float32 [T, S] of a table, float32 [T, samples] of a sound; the name of a class

STATES = "states.csv"  # next to the metadata of a folder, as `tokenreel tabletop` writes it


@dataclass(frozen=True)
class ClassSource:
    """The class of a clip; the plan has its name."""

    type: ClassVar[str] = "class"


@dataclass(frozen=True)
class TableSource:
    """Numbers for each frame of a video, from a table of its source."""

    type: ClassVar[str] = "table"

    file: str  # a CSV below the data's folder
    columns: tuple[str, ...]


@dataclass(frozen=True)
class SoundSource:
    """A window of sound for each frame, starting when the frame appears."""

    type: ClassVar[str] = "sound"

    rate: int  # samples per second
    samples: int  # of a window
    frame_rate: float  # frames per second that the control encoder was fitted for


ControlSource = ClassSource | TableSource | SoundSource


@dataclass(frozen=True, eq=False)
class ControlRequest:
    """A request to a decode pool: control inputs for ticks of a video's resampled timeline."""

    video: int  # index into the source's entries
    source: TableSource | SoundSource
    ticks: np.ndarray  # int64 [m] ascending
    source_frames: np.ndarray  # int64 [m], the source frame that each tick shows
    frame_rate: float | None  # of the timeline; None: the source's own frames are the ticks


class ControlStreamEncoder(Protocol):
    """Encodes the control inputs of a clip as the tokens of its control streams."""

    @property
    def sources(self) -> Mapping[str, ControlSource]:
        """The source of each control, by its name."""

    def encode(self, inputs: Mapping[str, ControlInput]) -> Mapping[str, np.ndarray]:
        """Control inputs of one clip -> int64 [t, h, w, q], both by name. Raises DataError for unsuitable inputs."""
