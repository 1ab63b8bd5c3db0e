"""Reads the inputs of controls from a source of videos, for the ticks of a video's resampled timeline.

Runs in a decode worker, so it must not import torch.
"""

from __future__ import annotations

import numpy as np

from tokenreel.data.controls.inputs import ControlRequest, SoundSource, TableSource
from tokenreel.data.controls.sound import sound_range, windows
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.errors import DataError

RATE_TOLERANCE = 0.02  # fraction of the frame rate


def read_control_input(source: VideoSource, request: ControlRequest) -> np.ndarray:
    """float32 [m, S] of a table, float32 [m, samples] of a sound.

    Raises DataError if the source does not have it or it does not fit the video; DecodeFailure if this video's sound
    is damaged.
    """
    if isinstance(request.source, TableSource):
        return _table(source, request, request.source)
    return _sound(source, request, request.source)


def _table(source: VideoSource, request: ControlRequest, table: TableSource) -> np.ndarray:
    values = source.numbers(request.video, table.file, table.columns)
    frames = source.probe(request.video).frames
    if len(values) != frames:
        name = source.entries[request.video].id
        raise DataError(
            f"{name}: {table.file} has {len(values)} rows for it, expected one for each of its {frames} frames"
        )
    return values[request.source_frames]


def _sound(source: VideoSource, request: ControlRequest, sound: SoundSource) -> np.ndarray:
    times = _times(source, request)
    _require_rate(times, request.ticks, sound.frame_rate)
    begin, end = sound_range(sound.rate, times, sound.samples)
    return windows(source.sound(request.video, sound.rate, begin, end), sound.rate, times, sound.samples, begin)


def _times(source: VideoSource, request: ControlRequest) -> np.ndarray:
    """float64 [m] seconds from the video's first frame to each tick."""
    if request.frame_rate is not None:
        return request.ticks / request.frame_rate
    frame_times = source.probe(request.video).frame_times
    if np.isnan(frame_times).any():
        raise DataError(
            f"{source.location}: its frames have no times, so sound cannot be aligned with them; state their rate by "
            "appending ?fps=RATE to the data's path"
        )
    return frame_times[request.source_frames] - frame_times[0]


def _require_rate(times: np.ndarray, ticks: np.ndarray, expected: float) -> None:
    if len(times) < 2:
        return
    rate = (ticks[-1] - ticks[0]) / (times[-1] - times[0])
    if abs(rate - expected) > RATE_TOLERANCE * expected:
        raise DecodeFailure(
            "bad-timestamps",
            f"its frames come at {rate:.4g} per second, the sound's encoder was fitted for {expected:.4g}: "
            f"use data.framing.frame_rate={expected:g}, or fit the controls on such videos",
        )
