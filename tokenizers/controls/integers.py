"""Any whole numbers of the user's, one for each frame, which are codes as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tokenreel.data.controls.needs import ControlInput, TableSource
from tokenreel.errors import ConfigError, DataError
from tokenreel.tokenizers.controls.base import ControlEncoder

MAX_CODES = 1 << 16  # such numbers come through float32 unchanged, and no prior wants more


@dataclass(frozen=True)
class IntegerConfig:
    type: ClassVar[str] = "integers"

    file: str  # a CSV below the data's folder: file_name, frame, and the column
    column: str
    codebook_size: int  # K; the numbers are 0 to K - 1

    def __post_init__(self) -> None:
        if not 1 <= self.codebook_size <= MAX_CODES:
            raise ConfigError(f"codebook_size (={self.codebook_size}) must be 1 to {MAX_CODES}")


class IntegerEncoder(ControlEncoder):
    """Checks that they are codes."""

    config_class = IntegerConfig
    config: IntegerConfig

    @property
    def need(self) -> TableSource:
        return TableSource(self.config.file, (self.config.column,))

    @property
    def codebook_size(self) -> int:
        return self.config.codebook_size

    def grid(self, frames: int) -> tuple[int, int, int]:
        return frames, 1, 1

    def encode(self, raw: ControlInput) -> np.ndarray:
        numbers = np.asarray(raw)[:, 0]
        bad = np.flatnonzero(~((numbers >= 0) & (numbers < self.codebook_size) & (numbers == np.floor(numbers))))
        if len(bad):
            raise DataError(
                f"{self.config.column} (={numbers[bad[0]]:g}) in frame {bad[0]} of a clip is no whole number from 0 to "
                f"{self.codebook_size - 1}"
            )
        return numbers.astype(np.int64)[:, None, None, None]

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """float32 [T, 1]"""
        return indices.reshape(-1, 1).astype(np.float32)
