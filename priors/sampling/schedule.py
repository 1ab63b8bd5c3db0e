"""Where the windows lie when a video is longer than the clips that a prior was trained on.

Plain arithmetic on frames and code steps; knows no prior and no tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenreel.data.spec import StreamSpec, TokenSpec
from tokenreel.errors import ConfigError


@dataclass(frozen=True)
class Placement:
    """One window in a video: the clip that starts at frame `start`."""

    start: int  # frame of the video
    done: int  # frames of the window that windows before it have settled
    wanted: int  # frames of the window that the video has; all but where the video is shorter than a clip


def runs_with_video(spec: TokenSpec, stream: StreamSpec) -> bool:
    """Whether the stream's steps follow the frames (levels, states, sound); those of others (a class) hold for all."""
    return stream.role == "level" or (stream.grid[0] > 1 and stream.grid[0] * stream.stride == spec.frames)


def placements(spec: TokenSpec, running: Sequence[StreamSpec], frames: int, slide: int) -> Iterator[Placement]:
    """The windows of a video of `frames`, each `slide` frames on (0: half of the clip); the last one ends with it.

    Raises ConfigError where the frames or the slide do not fill whole steps of a `running` stream, or the codes of the
    spec cannot slide.
    """
    for stream in running:
        spec.steps_of_frames(frames, stream)
    if frames < 1:
        raise ConfigError(f"frames (={frames}) must be at least 1")
    if frames > spec.frames:
        slide = _slide(spec, running, slide)
    start, done = 0, 0
    while True:
        yield Placement(start, done - start, min(frames, spec.frames))
        done = start + spec.frames
        if done >= frames:
            return
        start = min(start + slide, frames - spec.frames)


def _slide(spec: TokenSpec, running: Sequence[StreamSpec], slide: int) -> int:
    if spec.time != "framewise":
        raise ConfigError(
            f"a video longer than the clip's {spec.frames} frames needs framewise tokens; with {spec.time} ones a code "
            "means something else at another step"
        )
    stride = math.lcm(*(stream.stride for stream in running))
    slide = slide or max(spec.frames // 2 // stride, 1) * stride
    if slide % stride or not 0 < slide < spec.frames:
        raise ConfigError(
            f"slide (={slide}) must be below the clip's {spec.frames} frames and a multiple of {stride}, "
            "the frames of whole code steps"
        )
    return slide
