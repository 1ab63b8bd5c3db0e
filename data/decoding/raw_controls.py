"""Reads the inputs of controls from a source of videos, for the ticks of a video's timeline.

Runs in a decode worker, so it must not import torch.
"""

from __future__ import annotations

import numpy as np

from tokenreel.data.controls.needs import ControlRequest, SoundSource, TableSource
from tokenreel.data.controls.sound import windows
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.video.reader import DecodeFailure
from tokenreel.errors import DataError

RATE_TOLERANCE = 0.02  # fraction of the frame rate


def read_raw(source: VideoSource, request: ControlRequest) -> np.ndarray:
    """float32 [m, S] of a table, float32 [m, samples] of a sound.

    Raises DataError where the source has no such thing or it does not fit the video; DecodeFailure where this video's
    sound is at fault.
    """
    if isinstance(request.need, TableSource):
        return _table(source, request, request.need)
    return _sound(source, request, request.need)


def _table(source: VideoSource, request: ControlRequest, need: TableSource) -> np.ndarray:
    values = source.numbers(request.video, need.file, need.columns)
    frames = source.probe(request.video).frames
    if len(values) != frames:
        name = source.entries[request.video].id
        raise DataError(
            f"{name}: {need.file} has {len(values)} lines for it, expected one for each of its {frames} frames"
        )
    return values[request.source_frames]


def _sound(source: VideoSource, request: ControlRequest, need: SoundSource) -> np.ndarray:
    times = _times(source, request)
    _require_rate(times, request.ticks, need.frame_rate)
    return windows(source.sound(request.video, need.rate), need.rate, times, need.samples)


def _times(source: VideoSource, request: ControlRequest) -> np.ndarray:
    """float64 [m] seconds from the video's first frame to each tick."""
    if request.frame_rate is not None:
        return request.ticks / request.frame_rate
    frame_times = source.probe(request.video).frame_times
    if np.isnan(frame_times).any():
        raise DataError(
            f"{source.location}: its frames carry no times, so no sound can be laid beside them; state their rate by "
            "adding ?fps=RATE to the data's path"
        )
    return frame_times[request.source_frames] - frame_times[0]


def _require_rate(times: np.ndarray, ticks: np.ndarray, wanted: float) -> None:
    if len(times) < 2:
        return
    rate = (ticks[-1] - ticks[0]) / (times[-1] - times[0])
    if abs(rate - wanted) > RATE_TOLERANCE * wanted:
        raise DecodeFailure(
            "bad-timestamps",
            f"its frames come at {rate:.4g} per second, the sound's encoder was fitted for {wanted:.4g}: "
            f"use data.framing.frame_rate={wanted:g}, or fit the controls on such videos",
        )
