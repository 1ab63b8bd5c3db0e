"""The state of what is filmed (a robot's place, say): a few numbers for each frame, each by a codebook of its own.

CCVS section 4, "state-conditioned": two scalars a frame, quantised to 128 by a learned 1-d codebook. The public code
shares one codebook between the scalars and learns it by gradients; here each scalar has its own, solved outright.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.controls.needs import STATES, ControlInput, TableSource
from tokenreel.errors import ConfigError, DataError
from tokenreel.tokenizers.controls.base import ControlEncoder, DatasetInfo
from tokenreel.tokenizers.controls.scalar_codebook import nearest_scalars, scalar_codebook

MARGIN = 0.1  # of a codebook's span, by which a person's numbers may lie outside of it


@dataclass(frozen=True)
class StateConfig:
    type: ClassVar[str] = "state"

    codebook_size: int = 128  # K, for each scalar
    file: str = STATES  # a CSV below the data's folder: file_name, frame, and columns of numbers
    columns: tuple[str, ...] = ()  # S of them; empty: all that the table has

    def __post_init__(self) -> None:
        if self.codebook_size < 2:
            raise ConfigError(f"codebook_size (={self.codebook_size}) must be at least 2")
        if len(set(self.columns)) != len(self.columns):
            raise ConfigError(f"columns (={list(self.columns)}) must be different")


class StateEncoder(ControlEncoder):
    """S codes a frame, [T, 1, S, 1]; a number becomes the nearest of its codebook."""

    config_class = StateConfig
    config: StateConfig
    codebooks: Tensor  # [S, K] ascending

    def __init__(self, config: StateConfig) -> None:
        super().__init__(config)
        self.register_buffer("codebooks", torch.zeros(len(config.columns), config.codebook_size, dtype=torch.float64))

    @classmethod
    def settle(cls, config: StateConfig, facts: DatasetInfo) -> StateConfig:
        return config if config.columns else dataclasses.replace(config, columns=facts.columns(config.file))

    @classmethod
    def leaves_open(cls, config: StateConfig) -> bool:
        return not config.columns

    @property
    def need(self) -> TableSource:
        return TableSource(self.config.file, self.config.columns)

    @property
    def codebook_size(self) -> int:
        return self.config.codebook_size

    def grid(self, frames: int) -> tuple[int, int, int]:
        return frames, 1, len(self.config.columns)

    def fit(self, raws: Sequence[ControlInput]) -> None:
        values = np.concatenate([np.asarray(raw) for raw in raws])
        books = [scalar_codebook(column, self.codebook_size) for column in values.T]
        self.codebooks.copy_(torch.from_numpy(np.stack(books)))

    def encode(self, raw: ControlInput) -> np.ndarray:
        values = self._finite(raw)
        indices = [nearest_scalars(column, book.numpy()) for column, book in zip(values.T, self.codebooks, strict=True)]
        return np.stack(indices, axis=1)[:, None, :, None]

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """float32 [T, S]"""
        columns = zip(indices[:, 0, :, 0].T, self.codebooks, strict=True)
        return np.stack([book.numpy()[column] for column, book in columns], axis=1).astype(np.float32)

    def error(self, raw: ControlInput, decoded: Any) -> Mapping[str, float]:
        return {"squared": float(np.square(np.asarray(raw) - decoded, dtype=np.float64).sum()), "count": decoded.size}

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"rms_error": math.sqrt(sums["squared"] / sums["count"])}

    def require_in_range(self, raw: ControlInput) -> None:
        for name, column, book in zip(self.config.columns, self._finite(raw).T, self.codebooks, strict=True):
            low, high = float(book[0]), float(book[-1])
            slack = MARGIN * (high - low)
            bad = np.flatnonzero((column < low - slack) | (column > high + slack))
            if len(bad):
                raise DataError(
                    f"{name} (={column[bad[0]]:g}) in frame {bad[0]} is far from what the codebook was fitted on, "
                    f"{low:g} to {high:g}: give it in the units of the training data"
                )

    def _finite(self, raw: ControlInput) -> np.ndarray:
        """float64 [T, S]. Raises DataError for another number of scalars, and for what is no number."""
        values = np.asarray(raw, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.config.columns) or not np.isfinite(values).all():
            raise DataError(
                f"a state must be finite numbers for {', '.join(self.config.columns)} in each frame, in this order; "
                f"got the shape {list(values.shape)}"
            )
        return values
