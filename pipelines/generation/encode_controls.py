"""Controls that a person gives -> tokens: a class by its name, states and integers as CSV, sound as a file.

An input starts with the video's first frame and must be long enough for it; what does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.controls.frame_table import read_table
from tokenreel.data.controls.inputs import ClassSource, ControlInput, ControlSource, TableSource
from tokenreel.data.controls.sound import sound_range, windows
from tokenreel.data.controls.sound_reader import SoundReader
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.errors import DataError
from tokenreel.tokenizers.controls.controls import Controls


def encode_given_controls(controls: Controls, given: Mapping[str, str], frames: Mapping[str, int]) -> dict[str, Tensor]:
    """What is given for each control by its name (a class's name, or the path of a file) -> int64 [1, t, h, w, q].

    `frames` says for how many frames of the video. A CSV has one row for each of them: `frame`, and the columns that
    the control was fitted on. The frames of a sound come at the rate that it was fitted for. Raises ConfigError for an
    unknown control, DataError for an input that does not fit it.
    """
    tokens = {}
    for name, value in given.items():
        encoder = controls.encoder(name)
        try:
            control_input = _read(encoder.source, value, frames[name])
            encoder.require_in_range(control_input)
            tokens[name] = torch.from_numpy(encoder.encode(control_input))[None]
        except DataError as error:
            raise DataError(f"control {name!r}, {value}: {error}") from error
    return tokens


def _read(source: ControlSource, value: str, frames: int) -> ControlInput:
    """The input of a control for `frames` frames."""
    if isinstance(source, ClassSource):
        return value
    if isinstance(source, TableSource):
        return _table(Path(value), source.columns, frames)
    times = np.arange(frames) / source.frame_rate
    _, end = sound_range(source.rate, times, source.samples)
    return windows(_sound(Path(value), source.rate, end), source.rate, times, source.samples)


def _table(path: Path, columns: tuple[str, ...], frames: int) -> np.ndarray:
    values = read_table(path, columns)
    if len(values) != frames:
        raise DataError(f"it has {len(values)} frames, but {frames} are needed: give one row for each of these")
    return values


def _sound(path: Path, rate: int, stop: int) -> np.ndarray:
    """The samples before `stop` at `rate` samples per second."""
    try:
        with SoundReader(path, rate=rate) as reader:
            return reader.read(0, stop)
    except DecodeFailure as failure:
        raise DataError(f"its sound cannot be read: {failure}") from failure
