"""GeneratorSpec: what a generator of pixels makes, and of what. Plain data with a JSON round trip, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tokenreel.config import from_mapping, to_mapping
from tokenreel.data.spec import Framing
from tokenreel.errors import ConfigError, nearest_name


@dataclass(frozen=True)
class GeneratorSpec:
    """A clip and its conditions: noise, class, first frames, end frame."""

    frames: int  # T of a clip, with the given frames and the end frame
    framing: Framing
    noise: int  # D, the number of noise values per clip
    given_frames: int = 0  # first frames that must be given
    end_frame: bool = False  # whether the last frame must be given
    classes: tuple[str, ...] = ()  # in the order of class weights; empty: no class is given
    channels: Literal[1, 3] = 3  # 1: generated frames are grey, of three equal channels; given ones stay as they are

    def __post_init__(self) -> None:
        if self.frames < 1 or self.noise < 1:
            raise ConfigError(f"frames (={self.frames}) and noise (={self.noise}) must be at least 1")
        if self.given_frames < 0 or self.generated_frames < 1:
            raise ConfigError(
                f"given_frames (={self.given_frames}){' and an end frame' * self.end_frame} must leave at least one of "
                f"frames (={self.frames}) to generate"
            )
        if len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"classes: the names must differ, got {', '.join(self.classes)}")

    @property
    def generated_frames(self) -> int:
        return self.frames - self.given_frames - self.end_frame

    def class_index(self, name: str) -> int:
        """The index of a class. Raises ConfigError, with the nearest known one, if there is none of that name."""
        if name not in self.classes:
            raise ConfigError(f"no class is called {name!r}; {nearest_name(name, self.classes)}")
        return self.classes.index(name)

    @property
    def summary(self) -> str:
        """One line for people."""
        conditions = [f"{self.noise} noise values"]
        conditions += [f"{len(self.classes)} classes"] * bool(self.classes)
        conditions += [f"{self.given_frames} given frame{'s' * (self.given_frames > 1)}"] * bool(self.given_frames)
        conditions += ["an end frame"] * self.end_frame
        return f"{self.frames} frames of {self.framing.height}x{self.framing.width} from {', '.join(conditions)}"

    def to_json(self) -> dict[str, Any]:
        return to_mapping(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GeneratorSpec:
        """The spec of a JSON document. Raises ConfigError for unknown or missing keys and values out of range."""
        return from_mapping(cls, data, "spec")
