"""The order in which a GPT generates the tokens of a clip, and the controls that it is conditioned on (CCVS section
3.3).

In numpy, so that a prior can be built on the meta device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tokenreel.data.spec import END, END_STEP, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError


def controlled_spec(spec: TokenSpec, controls: Sequence[str]) -> TokenSpec:
    """`spec` with its levels and the named control streams only; `end` is the derived end frame.

    Raises ConfigError for a control that the tokens lack, or one whose steps are neither one nor those of the clip.
    """
    if END in controls:
        spec = spec.with_end_frame()
    available = {stream.name: stream for stream in spec.streams if stream.role == "control"}
    missing = [name for name in controls if name not in available]
    if missing or len(set(controls)) < len(controls):
        raise ConfigError(
            f"controls (={list(controls)}) must be different control streams of the tokens, which have "
            f"{list(available)} and lack {missing}: tokenize with --controls, or set prior.controls"
        )
    names = {*controls, END_STEP} if END in controls else set(controls)
    for name in names:
        _require_fit(spec, available[name])
    streams = tuple(stream for stream in spec.streams if stream.role == "level" or stream.name in names)
    return dataclasses.replace(spec, streams=streams)


def _require_fit(spec: TokenSpec, control: StreamSpec) -> None:
    if control.grid[0] != 1 and not spec.runs_with_video(control):
        raise ConfigError(
            f"controls: {control.name!r} has {control.grid[0]} steps of {control.stride} frames; a clip of "
            f"{spec.frames} frames needs one step, or steps that fill the clip"
        )


def frame_order(spec: TokenSpec, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The order of the tokens of the named streams, int64 [L, 5] as in `Prior.order`, and the first frame that each
    stands for, int64 [L].

    Sorted by that frame; within a frame controls before levels, tokens of more frames first, then as the spec lists the
    streams; within a stream by h, w, q.
    """
    rows, keys = [], []
    for index, stream in enumerate(spec.streams):
        if stream.name not in names:
            continue
        coordinates = np.indices(stream.shape).reshape(4, -1)
        first = np.array([spec.frames_of_step(step, stream)[0] for step in range(stream.grid[0])])[coordinates[0]]
        ones = np.full_like(first, 1)
        rows.append(np.vstack([ones * index, coordinates]))
        keys.append(np.vstack([-stream.stride * ones, (stream.role == "level") * ones, first]))
    order, key = np.concatenate(rows, 1), np.concatenate(keys, 1)
    by_key = np.lexsort(key)  # stable; the last key is the primary one
    return order.T[by_key].copy(), key[-1, by_key]


def previous_positions(order: np.ndarray) -> np.ndarray:
    """int64 [L]: the position in `order` [L, 5] of the token at the same location one step before; -1 if none."""
    position = {tuple(token): i for i, token in enumerate(order.tolist())}
    return np.array([position.get((stream, t - 1, *location), -1) for stream, t, *location in order.tolist()])


def latest_positions(order: np.ndarray, streams: list[int]) -> tuple[np.ndarray, list[int]]:
    """For each location (h, w, q) of these streams, the last position at this location before each position of `order`
    [L, 5], int64 [S, L], -1 if none; and the stream of each location, S of them.
    """
    locations = list(dict.fromkeys(tuple(token) for token in order[:, [0, 2, 3, 4]].tolist() if token[0] in streams))
    latest = np.full((len(locations), len(order)), -1)
    for row, location in enumerate(locations):
        positions = np.flatnonzero((order[:, [0, 2, 3, 4]] == location).all(1))
        before = np.searchsorted(positions, np.arange(len(order)))  # how many of them are before each position
        latest[row, before > 0] = positions[before[before > 0] - 1]
    return latest, [location[0] for location in locations]


def step_positions(order: np.ndarray, stream: int, steps: int) -> np.ndarray:
    """int64 [t, P]: the positions in `order` [L, 5] of the P tokens of each of the `steps` of the stream of that index,
    in raster order.
    """
    positions = np.flatnonzero(order[:, 0] == stream)
    return positions[np.lexsort(order[positions, :0:-1].T)].reshape(steps, -1)
