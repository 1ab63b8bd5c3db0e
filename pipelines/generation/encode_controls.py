"""What a person gives to steer a video, as codes: a class by its name, states and integers as CSV, sound as a file.

Each is read for a clip of a wanted length that starts with it; what is too short or does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.controls.frame_table import read_table
from tokenreel.data.controls.needs import ClassSource, ControlInput, ControlSource, TableSource
from tokenreel.data.controls.sound import read_sound, resample, windows
from tokenreel.data.video.reader import DecodeFailure
from tokenreel.errors import DataError
from tokenreel.tokenizers.controls.controls import Controls


def encode_given_controls(controls: Controls, given: Mapping[str, str], frames: Mapping[str, int]) -> dict[str, Tensor]:
    """What is given for each control by its name (a class's name, or the path of a file) -> int64 [1, t, h, w, q].

    `frames` says of how many frames of the video. A CSV has a line for each of them: `frame`, and the columns that the
    control was fitted on. A sound starts with the first frame; frames come at the rate that it was fitted for.
    Raises ConfigError for a control that is not known, DataError for what does not fit it.
    """
    codes = {}
    for name, said in given.items():
        encoder = controls.encoder(name)
        try:
            raw = _raw(encoder.need, said, frames[name])
            encoder.require_in_range(raw)
            codes[name] = torch.from_numpy(encoder.encode(raw))[None]
        except DataError as error:
            raise DataError(f"control {name!r}, {said}: {error}") from error
    return codes


def _raw(need: ControlSource, said: str, frames: int) -> ControlInput:
    """Of `frames` frames."""
    if isinstance(need, ClassSource):
        return said
    if isinstance(need, TableSource):
        return _table(Path(said), need.columns, frames)
    samples, rate = _sound(Path(said))
    return windows(resample(samples, rate, need.rate), need.rate, np.arange(frames) / need.frame_rate, need.samples)


def _table(path: Path, columns: tuple[str, ...], frames: int) -> np.ndarray:
    values = read_table(path, columns)
    if len(values) != frames:
        raise DataError(f"it has {len(values)} frames, needed are {frames}: give a line for each of these")
    return values


def _sound(path: Path) -> tuple[np.ndarray, int]:
    try:
        return read_sound(path)
    except DecodeFailure as failure:
        raise DataError(f"its sound cannot be read, {failure}") from failure
