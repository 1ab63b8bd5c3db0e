"""What every coder of a control is: raw numbers of a clip -> integer codes, a track that steers a prior.

CCVS section 3.3 (https://arxiv.org/abs/2107.08037): what steers a video is tokens before or between those of its
frames. Codebooks are fitted in closed form or by Lloyd's iterations, never by gradients. No coder knows files.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from tokenreel.config import Registry, to_mapping
from tokenreel.data.controls.needs import ControlInput, ControlSource
from tokenreel.data.spec import StreamSpec
from tokenreel.hub import fingerprint

CODERS: Registry[ControlEncoder] = Registry(
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
    """What a configuration may leave to the data that coders are fitted on."""

    classes: tuple[str, ...]  # sorted; empty where the data has none
    frame_rate: float | None  # frames a second of a clip; None where frames carry no times
    columns: Callable[[str], tuple[str, ...]]  # those of a table; raises DataError where there is no such table


class ControlEncoder(nn.Module):
    """Base of all coders. A member is built of a configuration that leaves nothing open (`settle`), and may have
    codebooks as buffers that `fit` fills.
    """

    config_class: ClassVar[type[Any]]
    config: Any

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.document = to_mapping(config)  # of a loaded coder what was stored, without settings that are younger

    @classmethod
    def settle(cls, config: Any, facts: DatasetInfo) -> Any:
        """`config` with what it leaves open taken from the data. Raises ConfigError or DataError if it cannot be."""
        return config

    @classmethod
    def leaves_open(cls, config: Any) -> bool:
        """Whether `settle` needs the data."""
        return False

    @property
    @abstractmethod
    def need(self) -> ControlSource:
        """What `encode` wants to be given."""

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """K"""

    @abstractmethod
    def grid(self, frames: int) -> tuple[int, int, int]:
        """t, h, w of a clip of that many frames; t is 1 where one code stands for the whole clip, else `frames`."""

    @abstractmethod
    def encode(self, raw: ControlInput) -> np.ndarray:
        """Of one clip -> int64 [t, h, w, 1]. Raises DataError where `raw` is nothing that this coder knows."""

    @abstractmethod
    def decode(self, indices: np.ndarray) -> Any:
        """Integers [t, h, w, 1] -> what they stand for, as near to `raw` as the codebook comes."""

    def fit(self, raws: Sequence[ControlInput]) -> None:
        """Fills the codebooks; one item for each clip. Deterministic. Coders without codebooks have nothing to do."""

    def error(self, raw: ControlInput, decoded: Any) -> Mapping[str, float]:
        """Sums by which a reconstruction is judged, over one clip: squared errors and counts, see `figures`."""
        return {}

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Figures for people, out of the sums of `error` over many clips."""
        return {}

    def require_in_range(self, raw: ControlInput) -> None:
        """Raises DataError where a person gives what no training clip comes near to, which `encode` would bend."""

    def stream(self, name: str, frames: int) -> StreamSpec:
        """The track called `name` of a clip of that many frames."""
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
        """What the codes depend on: configuration and codebooks. Hex sha256."""
        return fingerprint(self.document, self.state_dict())


def build_coder(config: Any) -> ControlEncoder:
    """The coder of a settled configuration, its codebooks empty."""
    return CODERS.member(config.type)(config)
