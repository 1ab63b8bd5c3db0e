"""Integers supplied by the user, one for each frame, which are tokens as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tokenreel.data.controls.inputs import ControlInput, TableSource
from tokenreel.errors import ConfigError, DataError
from tokenreel.tokenizers.controls.base import ControlEncoder

MAX_CODEBOOK_SIZE = 1 << 16  # float32 represents such integers exactly, and no prior needs more


@dataclass(frozen=True)
class IntegerConfig:
    type: ClassVar[str] = "integers"

    file: str  # a CSV file in the data's folder, with file_name, frame and the column
    column: str
    codebook_size: int  # K; integers are from 0 to K - 1

    def __post_init__(self) -> None:
        if not 1 <= self.codebook_size <= MAX_CODEBOOK_SIZE:
            raise ConfigError(f"codebook_size (={self.codebook_size}) must be from 1 to {MAX_CODEBOOK_SIZE}")


class IntegerEncoder(ControlEncoder):
    """Passes integers through, after a check of their range."""

    config_class = IntegerConfig
    config: IntegerConfig

    @property
    def source(self) -> TableSource:
        return TableSource(self.config.file, (self.config.column,))

    @property
    def codebook_size(self) -> int:
        return self.config.codebook_size

    def grid(self, frames: int) -> tuple[int, int, int]:
        return frames, 1, 1

    def encode(self, clip_input: ControlInput) -> np.ndarray:
        numbers = np.asarray(clip_input)[:, 0]
        bad = np.flatnonzero(~((numbers >= 0) & (numbers < self.codebook_size) & (numbers == np.floor(numbers))))
        if len(bad):
            raise DataError(
                f"{self.config.column} (={numbers[bad[0]]:g}) in frame {bad[0]} of a clip must be an integer from 0 to "
                f"{self.codebook_size - 1}"
            )
        return numbers.astype(np.int64)[:, None, None, None]

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """The integers, float32 [T, 1]."""
        return indices.reshape(-1, 1).astype(np.float32)
