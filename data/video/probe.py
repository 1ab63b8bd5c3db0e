"""What is known of a video before it is decoded: its frames' times and size; and why one cannot be decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from tokenreel.errors import DataError

Reason = Literal[
    "unreadable", "no-video", "no-sound", "unsupported-codec", "too-large", "too-short", "truncated", "corrupt",
    "bad-timestamps",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)

TIME_ROUNDING = 1.5e-3  # seconds; Matroska rounds times to 1 ms, so a difference of two may be up to 1 ms too small


class DecodeFailure(DataError):
    """A video, or a part of it, that cannot be decoded correctly; retrying gives the same result."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True, eq=False)
class VideoProbe:
    """What a source states about a video before anything is decoded. Frames may still fail to decode."""

    frame_times: np.ndarray  # float64 [n] seconds, in order of presentation; all NaN where frames have no times
    height: int  # pixels as stored, before a rotation
    width: int
    codec: str  # FFmpeg's name, or "raw" for pixels
    last_duration: float | None = None  # seconds that the last frame is shown; None: as long as the frames' mean

    @property
    def frames(self) -> int:
        return len(self.frame_times)

    @property
    def frame_rate(self) -> float | None:
        """The mean rate in frames per second; None for a single frame and for frames without times."""
        if len(self.frame_times) < 2 or np.isnan(self.frame_times[0]):
            return None
        return float((len(self.frame_times) - 1) / (self.frame_times[-1] - self.frame_times[0]))


def resample_indices(probe: VideoProbe, frame_rate: float | None) -> np.ndarray:
    """int64 [m]: the number of the frame shown at each tick of a timeline at `frame_rate`.

    Ticks run from the first frame to the end of the last one; a tick shows the last frame that is not after it, as
    FFmpeg's `fps=RATE:round=up`. None keeps every frame once. Raises DataError where the frames have no times to
    resample by.
    """
    if frame_rate is None:
        return np.arange(probe.frames, dtype=np.int64)
    if np.isnan(probe.frame_times).any():
        raise DataError(
            f"frame_rate (={frame_rate:g}): these frames have no times to resample by; omit frame_rate, or state their "
            "rate by appending ?fps=RATE to the data's path"
        )
    since_first = probe.frame_times - probe.frame_times[0]
    slack = min(TIME_ROUNDING, 0.25 / frame_rate)
    duration = probe.last_duration
    if duration is None:
        duration = 1 / probe.frame_rate if probe.frame_rate else 0.0
    to_last = int((since_first[-1] + slack) * frame_rate) + 1
    to_end = math.ceil((since_first[-1] + duration - slack) * frame_rate)
    ticks = np.arange(max(to_last, to_end)) / frame_rate
    return np.searchsorted(since_first, ticks + slack, side="right").astype(np.int64) - 1


def require_frames(indices: np.ndarray, frames: int) -> None:
    """Raises ValueError unless `indices` are ascending frame numbers, at least one, and DecodeFailure where a video of
    `frames` frames is too short for them.
    """
    if len(indices) == 0 or indices[0] < 0 or np.any(np.diff(indices) < 0):
        raise ValueError(f"indices (={indices}) must be ascending frame numbers, at least one of them")
    if indices[-1] >= frames:
        raise DecodeFailure("too-short", f"frame {indices[-1]} was requested, but the video has {frames} frames")
