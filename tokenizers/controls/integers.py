"""Any whole numbers of the user's, one for each frame, which are codes as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tokenreel.data.controls.needs import Raw, TableNeed
from tokenreel.errors import ConfigError, DataError
from tokenreel.tokenizers.controls.base import Coder

MOST_CODES = 1 << 16  # such numbers come through float32 unchanged, and no prior wants more


@dataclass(frozen=True)
class IntegerConfig:
    type: ClassVar[str] = "integers"

    file: str  # a CSV below the data's folder: file_name, frame, and the column
    column: str
    codes: int  # K; the numbers are 0 to K - 1

    def __post_init__(self) -> None:
        if not 1 <= self.codes <= MOST_CODES:
            raise ConfigError(f"codes (={self.codes}) must be 1 to {MOST_CODES}")


class IntegerCoder(Coder):
    """Checks that they are codes."""

    config_class = IntegerConfig
    config: IntegerConfig

    @property
    def need(self) -> TableNeed:
        return TableNeed(self.config.file, (self.config.column,))

    @property
    def codes(self) -> int:
        return self.config.codes

    def grid(self, frames: int) -> tuple[int, int, int]:
        return frames, 1, 1

    def encode(self, raw: Raw) -> np.ndarray:
        numbers = np.asarray(raw)[:, 0]
        bad = np.flatnonzero(~((numbers >= 0) & (numbers < self.codes) & (numbers == np.floor(numbers))))
        if len(bad):
            raise DataError(
                f"{self.config.column} (={numbers[bad[0]]:g}) in frame {bad[0]} of a clip is no whole number from 0 to "
                f"{self.codes - 1}"
            )
        return numbers.astype(np.int64)[:, None, None, None]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """float32 [T, 1]"""
        return codes.reshape(-1, 1).astype(np.float32)
