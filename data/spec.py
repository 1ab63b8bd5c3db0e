"""TokenSpec: the contract between the stages. It says what tokens a tokenizer makes and what a prior may expect.

Plain data with a JSON round trip, no torch: it lies in a tokenizer's config, in every cache and in every prior.
Letters here as everywhere: T H W frames and pixels, t h w token grid, q codebooks at a position, K codes in a codebook.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tokenreel.config import ABSENT_IF_NONE, from_mapping, to_mapping
from tokenreel.errors import ConfigError, nearest_name

Time = Literal["framewise", "causal", "window"]
END, END_STEP = "end", "end_step"  # the control streams of `TokenSpec.with_end_frame`


@dataclass(frozen=True)
class Framing:
    """How frames of any size and rate become frames of one size and rate; part of what the codes depend on."""

    height: int  # pixels
    width: int  # pixels
    frame_rate: float | None = None  # frames per second to resample to; None: keep the source's frames
    crop: Literal["center", "none"] = "center"  # center: the largest centred box of the target's shape; none: squeeze
    resize: Literal["lanczos", "area", "bilinear", "nearest"] = "lanczos"  # LVT section 4.3 crops, then uses Lanczos

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ConfigError(f"height x width (={self.height}x{self.width}) must be at least 1x1")
        if self.frame_rate is not None and not 0 < self.frame_rate < float("inf"):
            raise ConfigError(f"frame_rate (={self.frame_rate}) must be positive; leave it out to keep the source's")


@dataclass(frozen=True)
class StreamSpec:
    """One named array of tokens of a clip: integers [t, h, w, q] in [0, K)."""

    name: str
    grid: tuple[int, int, int]  # t, h, w
    codebook_size: int  # K, the size of each codebook
    codebooks: int = 1  # q, slices at one position
    stride: int = 1  # frames for each code step
    role: Literal["level", "control"] = "level"  # level: the video's own, coarse first; control: conditions it
    unconditional_token: int | None = None  # means "not given"; beyond the codebook, so K if there is one
    encoder_fingerprint: str | None = field(default=None, metadata=ABSENT_IF_NONE)  # of a control's encoder

    def __post_init__(self) -> None:
        if min(self.grid) < 1 or self.codebook_size < 1 or self.codebooks < 1 or self.stride < 1:
            raise ConfigError(f"stream {self.name!r}: every size must be at least 1, got {self}")
        if self.unconditional_token not in (None, self.codebook_size):
            raise ConfigError(
                f"stream {self.name!r}: unconditional_token (={self.unconditional_token}) must be codebook_size "
                f"(={self.codebook_size}) or absent"
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[t, h, w, q]"""
        return (*self.grid, self.codebooks)

    @property
    def positions(self) -> int:
        """Tokens of one clip in this stream."""
        t, h, w = self.grid
        return t * h * w * self.codebooks

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds every code, the unconditional token and a fill value (its maximum)."""
        return np.min_scalar_type(self.codebook_size + 1)


@dataclass(frozen=True)
class TokenSpec:
    """The streams of a clip, the clip itself, and how code steps and frames correspond.

    `time` says what a code step may know: `framewise` (its own frames only), `causal` (its own and earlier ones; step 0
    is frame 0 alone), `window` (the whole clip: the future leaks, so given frames are encoded alone).
    """

    streams: tuple[StreamSpec, ...]
    frames: int  # T of a clip
    framing: Framing
    time: Time = "framewise"

    def __post_init__(self) -> None:
        names = [stream.name for stream in self.streams]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"streams (={names}) must have at least one member and different names")
        for stream in self.streams:
            if stream.role == "level" and self.steps_of_frames(self.frames, stream) != stream.grid[0]:
                raise ConfigError(
                    f"stream {stream.name!r}: {self.frames} frames with stride {stream.stride} ({self.time}) make "
                    f"{self.steps_of_frames(self.frames, stream)} code steps, but the grid has {stream.grid[0]}"
                )

    def stream(self, name: str) -> StreamSpec:
        """The stream of that name; ConfigError, with the nearest known one, if there is none."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise ConfigError(f"no stream is called {name!r}; {nearest_name(name, (s.name for s in self.streams))}")

    @property
    def levels(self) -> tuple[StreamSpec, ...]:
        return tuple(stream for stream in self.streams if stream.role == "level")

    @property
    def bits(self) -> float:
        """Of the levels' codes of one clip, where nothing is known of how often each code comes."""
        return sum(level.positions * math.log2(level.codebook_size) for level in self.levels)

    @property
    def compression(self) -> float:
        """The part of a clip's bits, 8 for each of 3 channels of a pixel, that its levels' codes save."""
        return 1 - self.bits / (self.frames * self.framing.height * self.framing.width * 24)

    @property
    def frames_encoded_alone(self) -> int:
        """The first frames that a `window` tokenizer also encodes without those after them, as streams `<level>_given`:
        all that a prior may be given. 0 where there are none.
        """
        streams = (self.given_stream(level) for level in self.levels)
        return min((stream.grid[0] * stream.stride for stream in streams if stream is not None), default=0)

    def given_stream(self, level: StreamSpec) -> StreamSpec | None:
        """The stream that holds the given frames of `level` encoded alone (`window` tokenizers), or None."""
        name = given_name(level.name)
        return next((s for s in self.streams if s.role == "control" and s.name == name), None)

    def with_end_frame(self) -> TokenSpec:
        """This spec with the control streams of an end frame: `end`, the tokens of the step at which the clip is to
        arrive, and `end_step`, which step that is. They are derived from the level (`data/controls/end_frame.py`); no
        cache holds them.

        Raises ConfigError where there are several levels.
        """
        if {END, END_STEP} <= {stream.name for stream in self.streams}:
            return self
        if len(self.levels) != 1:
            raise ConfigError(f"an end frame needs tokens of one level; these have {[s.name for s in self.levels]}")
        (level,) = self.levels
        whole: dict[str, Any] = {"stride": self.frames, "role": "control"}
        end = StreamSpec(
            END,
            (1, *level.grid[1:]),
            level.codebook_size,
            level.codebooks,
            unconditional_token=level.codebook_size,
            **whole,
        )
        step = StreamSpec(END_STEP, (1, 1, 1), level.grid[0], unconditional_token=level.grid[0], **whole)
        return dataclasses.replace(self, streams=(*self.streams, end, step))

    def steps_of_frames(self, frames: int, stream: StreamSpec) -> int:
        """How many code steps the first `frames` frames make. Raises ConfigError where the stride does not divide."""
        if frames == 0:
            return 0
        first = 1 if self.time == "causal" else 0  # a causal tokenizer codes frame 0 alone
        if (frames - first) % stream.stride:
            raise ConfigError(
                f"frames (={frames}) do not fill whole code steps of stream {stream.name!r}: "
                f"use {first or stream.stride} plus a multiple of its stride (={stream.stride})"
            )
        return first + (frames - first) // stream.stride

    def frames_of_step(self, step: int, stream: StreamSpec) -> range:
        """The frames that code step `step` stands for."""
        if self.time == "causal":
            return range(1) if step == 0 else range(1 + (step - 1) * stream.stride, 1 + step * stream.stride)
        return range(step * stream.stride, (step + 1) * stream.stride)

    def runs_with_video(self, stream: StreamSpec) -> bool:
        """Whether its steps follow the frames (levels, states, sound); those of others (a class) hold for all."""
        return stream.role == "level" or (stream.grid[0] > 1 and stream.grid[0] * stream.stride == self.frames)

    @property
    def summary(self) -> str:
        """One line for people: each stream with its shape [t, h, w, q] and its codebook."""
        return ", ".join(
            f"{stream.name} {list(stream.shape)} of {stream.codebook_size:,} codes" for stream in self.streams
        )

    def to_json(self) -> dict[str, Any]:
        return to_mapping(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TokenSpec:
        """Raises ConfigError for unknown keys, missing ones and values out of range."""
        return from_mapping(cls, data, "spec")


def given_name(level: str) -> str:
    """The name of the stream that holds the given frames of `level` encoded alone."""
    return f"{level}_given"
