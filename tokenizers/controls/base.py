"""Base class of control encoders: inputs of a control for a clip -> tokens of its control stream.

CCVS section 3.3 (https://arxiv.org/abs/2107.08037): controls are tokens before or between those of the frames.
Codebooks are fitted in closed form or by Lloyd's algorithm, not by gradients.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from tokenreel.config import to_mapping
from tokenreel.data.controls.inputs import ControlInput, ControlSource
from tokenreel.data.spec import StreamSpec
from tokenreel.hub import fingerprint
from tokenreel.registry import Registry

CONTROL_ENCODERS: Registry[ControlEncoder] = Registry(
    "control",
    {
        "class": "tokenreel.tokenizers.controls.class_name:ClassEncoder",
        "state": "tokenreel.tokenizers.controls.state:StateEncoder",
        "sound": "tokenreel.tokenizers.controls.sound:SoundEncoder",
        "integers": "tokenreel.tokenizers.controls.integers:IntegerEncoder",
    },
    base="tokenreel.tokenizers.controls.base:ControlEncoder",
)


@dataclass(frozen=True)
class DatasetInfo:
    """Defaults for control encoders, from the data that they are fitted on."""

    classes: tuple[str, ...]  # sorted; empty where the data has none
    frame_rate: float | None  # frames per second of a clip; None if frames carry no times
    columns: Callable[[str], tuple[str, ...]]  # columns of a table by its name; raises DataError if it is not found


class ControlEncoder(nn.Module):
    """Base class of control encoders. A subclass is built from a configuration whose defaults are resolved
    (`resolve_defaults`), and may have codebooks as buffers that `fit` fills.
    """

    config_class: ClassVar[type[Any]]
    config: Any

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.document = to_mapping(config)  # as saved, for a loaded encoder: without settings added since

    @classmethod
    def resolve_defaults(cls, config: Any, dataset: DatasetInfo) -> Any:
        """`config` with defaults from the data set. Raises ConfigError or DataError if the data set has none."""
        return config

    @classmethod
    def needs_dataset(cls, config: Any) -> bool:
        """Whether `config` has defaults that `resolve_defaults` takes from the data set."""
        return False

    @property
    @abstractmethod
    def source(self) -> ControlSource:
        """The source of the inputs that `encode` takes."""

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """K, the number of codes."""

    @abstractmethod
    def grid(self, frames: int) -> tuple[int, int, int]:
        """t, h, w of a clip of `frames` frames; t is 1 if a token stands for the whole clip, else `frames`."""

    @abstractmethod
    def encode(self, clip_input: ControlInput) -> np.ndarray:
        """The input of one clip -> tokens int64 [t, h, w, 1]. Raises DataError if `clip_input` cannot be encoded."""

    @abstractmethod
    def decode(self, indices: np.ndarray) -> Any:
        """Tokens [t, h, w, 1] -> the approximation of `clip_input` by the codebook."""

    def fit(self, clip_inputs: Sequence[ControlInput]) -> None:
        """Fits the codebooks to the inputs of clips. Deterministic. Does nothing for encoders without codebooks."""

    def error_sums(self, clip_input: ControlInput, decoded: Any) -> Mapping[str, float]:
        """Sums over one clip of which `error_metrics` computes metrics: squared errors and counts."""
        return {}

    def error_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Metrics of reconstruction, from `error_sums` added over clips."""
        return {}

    def require_in_range(self, clip_input: ControlInput) -> None:
        """Raises DataError for an input far outside of the training data, which `encode` would clamp."""

    def stream(self, name: str, frames: int) -> StreamSpec:
        """The control stream `name` of a clip of `frames` frames."""
        grid = self.grid(frames)
        return StreamSpec(
            name,
            grid,
            codebook_size=self.codebook_size,
            stride=frames // grid[0],
            role="control",
            unconditional_token=self.codebook_size,
            encoder_fingerprint=self.code_fingerprint,
        )

    @property
    def code_fingerprint(self) -> str:
        """Hex sha256 of what tokens depend on: configuration and codebooks."""
        return fingerprint(self.document, self.state_dict())


def build_control_encoder(config: Any) -> ControlEncoder:
    """The registered control encoder of a configuration with resolved defaults, not fitted."""
    return CONTROL_ENCODERS.member(config.type)(config)
