"""The class of a clip: one token for the whole clip (a video-level annotation, CCVS section 3.3)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tokenreel.data.controls.inputs import ClassSource, ControlInput
from tokenreel.errors import ConfigError, DataError, nearest_name
from tokenreel.tokenizers.controls.base import ControlEncoder, DatasetInfo


@dataclass(frozen=True)
class ClassConfig:
    type: ClassVar[str] = "class"

    names: tuple[str, ...] = ()  # sorted; empty: those of the data set

    def __post_init__(self) -> None:
        if list(self.names) != sorted(set(self.names)):
            raise ConfigError(f"names (={list(self.names)}) must be sorted and unique")


class ClassEncoder(ControlEncoder):
    """The token of a class is its index among the sorted names."""

    config_class = ClassConfig
    config: ClassConfig

    @classmethod
    def resolve_defaults(cls, config: ClassConfig, dataset: DatasetInfo) -> ClassConfig:
        if config.names:
            return config
        if not dataset.classes:
            raise DataError("a control of type 'class' needs classes, but this data set has none: put each in a folder")
        return dataclasses.replace(config, names=tuple(sorted(dataset.classes)))

    @classmethod
    def needs_dataset(cls, config: ClassConfig) -> bool:
        return not config.names

    @property
    def source(self) -> ClassSource:
        return ClassSource()

    @property
    def codebook_size(self) -> int:
        return len(self.config.names)

    def grid(self, frames: int) -> tuple[int, int, int]:
        return 1, 1, 1

    def encode(self, clip_input: ControlInput) -> np.ndarray:
        if clip_input not in self.config.names:
            raise DataError(f"class {clip_input!r} is not known; {nearest_name(str(clip_input), self.config.names)}")
        return np.full((1, 1, 1, 1), self.config.names.index(str(clip_input)), dtype=np.int64)

    def decode(self, indices: np.ndarray) -> str:
        return self.config.names[indices.item()]
