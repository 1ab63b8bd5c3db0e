"""States (a robot's position, for instance): a few scalars for each frame, each quantized by a codebook of its own.

CCVS section 4, "state-conditioned": two scalars per frame, quantized to 128 values by a learned 1-d codebook. The
public code shares one codebook between the scalars and learns it by gradients; here each scalar has an optimal one.
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

from tokenreel.data.controls.inputs import STATES, ControlInput, TableSource
from tokenreel.errors import ConfigError, DataError
from tokenreel.tokenizers.controls.base import ControlEncoder, DatasetInfo
from tokenreel.tokenizers.controls.scalar_codebook import nearest_scalars, scalar_codebook

MARGIN = 0.1  # fraction of a codebook's range by which given values may lie outside of it


@dataclass(frozen=True)
class StateConfig:
    type: ClassVar[str] = "state"

    codebook_size: int = 128  # K, for each scalar
    file: str = STATES  # a CSV file in the data's folder, with file_name, frame and columns of numbers
    columns: tuple[str, ...] = ()  # S columns; empty: all columns of the table

    def __post_init__(self) -> None:
        if self.codebook_size < 2:
            raise ConfigError(f"codebook_size (={self.codebook_size}) must be at least 2")
        if len(set(self.columns)) != len(self.columns):
            raise ConfigError(f"columns (={list(self.columns)}) must be unique")


class StateEncoder(ControlEncoder):
    """S tokens per frame, [T, 1, S, 1], each the index of the nearest codebook value."""

    config_class = StateConfig
    config: StateConfig
    codebooks: Tensor  # [S, K] ascending

    def __init__(self, config: StateConfig) -> None:
        super().__init__(config)
        self.register_buffer("codebooks", torch.zeros(len(config.columns), config.codebook_size, dtype=torch.float64))

    @classmethod
    def resolve_defaults(cls, config: StateConfig, dataset: DatasetInfo) -> StateConfig:
        return config if config.columns else dataclasses.replace(config, columns=dataset.columns(config.file))

    @classmethod
    def needs_dataset(cls, config: StateConfig) -> bool:
        return not config.columns

    @property
    def source(self) -> TableSource:
        return TableSource(self.config.file, self.config.columns)

    @property
    def codebook_size(self) -> int:
        return self.config.codebook_size

    def grid(self, frames: int) -> tuple[int, int, int]:
        return frames, 1, len(self.config.columns)

    def fit(self, clip_inputs: Sequence[ControlInput]) -> None:
        values = np.concatenate([np.asarray(one) for one in clip_inputs])
        codebooks = [scalar_codebook(column, self.codebook_size) for column in values.T]
        self.codebooks.copy_(torch.from_numpy(np.stack(codebooks)))

    def encode(self, clip_input: ControlInput) -> np.ndarray:
        values = self._finite(clip_input)
        columns = zip(values.T, self.codebooks, strict=True)
        indices = [nearest_scalars(column, codebook.numpy()) for column, codebook in columns]
        return np.stack(indices, axis=1)[:, None, :, None]

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """The quantized states, float32 [T, S]."""
        columns = zip(indices[:, 0, :, 0].T, self.codebooks, strict=True)
        return np.stack([codebook.numpy()[column] for column, codebook in columns], axis=1).astype(np.float32)

    def error_sums(self, clip_input: ControlInput, decoded: Any) -> Mapping[str, float]:
        return {
            "squared": float(np.square(np.asarray(clip_input) - decoded, dtype=np.float64).sum()),
            "count": decoded.size,
        }

    def error_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"rms_error": math.sqrt(sums["squared"] / sums["count"])}

    def require_in_range(self, clip_input: ControlInput) -> None:
        for name, column, codebook in zip(self.config.columns, self._finite(clip_input).T, self.codebooks, strict=True):
            low, high = float(codebook[0]), float(codebook[-1])
            slack = MARGIN * (high - low)
            bad = np.flatnonzero((column < low - slack) | (column > high + slack))
            if len(bad):
                raise DataError(
                    f"{name} (={column[bad[0]]:g}) in frame {bad[0]} is far outside of the training data's range, "
                    f"{low:g} to {high:g}: give it in the same units"
                )

    def _finite(self, clip_input: ControlInput) -> np.ndarray:
        """float64 [T, S]. Raises DataError for another number of scalars, and for values that are not finite."""
        values = np.asarray(clip_input, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.config.columns) or not np.isfinite(values).all():
            raise DataError(
                f"a state must be finite numbers for {', '.join(self.config.columns)} in each frame, in this order; "
                f"got shape {list(values.shape)}"
            )
        return values
