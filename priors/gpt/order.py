"""In which order a GPT takes the codes of a clip, and which tracks it is conditioned on (CCVS section 3.3).

Plain arithmetic on a token spec, in numpy, so that a prior can be built on the meta device. Knows no weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from tokenreel.data.spec import END, END_STEP, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError


def controlled_spec(spec: TokenSpec, controls: Sequence[str]) -> TokenSpec:
    """The levels of `spec` and the tracks `controls`, `end` being the derived end frame: all that the prior knows.

    Raises ConfigError for a control that these tokens lack, or one of neither one step nor the steps of the clip.
    """
    if END in controls:
        spec = spec.with_end_frame()
    tracks = {stream.name: stream for stream in spec.streams if stream.role == "control"}
    lacking = [name for name in controls if name not in tracks]
    if lacking or len(set(controls)) < len(controls):
        raise ConfigError(
            f"controls (={list(controls)}) must be different tracks of the tokens, which have {list(tracks)} and "
            f"lack {lacking}: tokenize with --controls, or take --set prior.controls=[...]"
        )
    wanted = {*controls, END_STEP} if END in controls else set(controls)
    for name in wanted:
        _require_fit(spec, tracks[name])
    streams = tuple(stream for stream in spec.streams if stream.role == "level" or stream.name in wanted)
    return dataclasses.replace(spec, streams=streams)


def _require_fit(spec: TokenSpec, track: StreamSpec) -> None:
    if track.grid[0] != 1 and not spec.runs_with_video(track):
        raise ConfigError(
            f"controls: track {track.name!r} has {track.grid[0]} steps of {track.stride} frames; a clip of "
            f"{spec.frames} needs one step for all, or steps that make up the clip"
        )


def frame_order(spec: TokenSpec, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The order of the codes of the named streams, int64 [L, 5] as in `Prior.order`, and the first frame that each
    stands for, int64 [L].

    By that frame; within it tracks before levels, what stands for more frames first, then as the spec lists the
    streams; within a stream by h, w, q.
    """
    rows, keys = [], []
    for index, stream in enumerate(spec.streams):
        if stream.name not in names:
            continue
        indices = np.indices(stream.shape).reshape(4, -1)
        first = np.array([spec.frames_of_step(step, stream)[0] for step in range(stream.grid[0])])[indices[0]]
        same = np.full_like(first, 1)
        rows.append(np.vstack([same * index, indices]))
        keys.append(np.vstack([-stream.stride * same, (stream.role == "level") * same, first]))
    order, key = np.concatenate(rows, 1), np.concatenate(keys, 1)
    by_key = np.lexsort(key)  # the last key counts most; stable
    return order.T[by_key].copy(), key[-1, by_key]


def codebooks(spec: TokenSpec, order: np.ndarray) -> tuple[list[StreamSpec], np.ndarray]:
    """The codebooks (stream, q) that `order` [L, 5] uses, each by its stream, and int64 [L], the index of each
    position's in that list.
    """
    keys, index = np.unique(order[:, [0, 4]], axis=0, return_inverse=True)
    return [spec.streams[stream] for stream, _ in keys], index.reshape(-1)


def embedding_sizes(streams: Iterable[StreamSpec]) -> list[int]:
    """The codes to be embedded of a codebook of each of `streams`, with the null code where there is one."""
    return [stream.codebook_size + (stream.unconditional_token is not None) for stream in streams]


def previous_positions(order: np.ndarray) -> np.ndarray:
    """int64 [L]: where in `order` [L, 5] the code one step before at the same place is; -1 where there is none."""
    position = {tuple(code): i for i, code in enumerate(order.tolist())}
    return np.array([position.get((stream, t - 1, *place), -1) for stream, t, *place in order.tolist()])


def latest_positions(order: np.ndarray, streams: list[int]) -> tuple[np.ndarray, list[int]]:
    """int64 [S, L]: for each place (h, w, q) of these streams the last position before each position of `order` [L, 5]
    that is of this place, -1 where there is none; and the stream of each place.
    """
    places = list(dict.fromkeys(tuple(code) for code in order[:, [0, 2, 3, 4]].tolist() if code[0] in streams))
    latest = np.full((len(places), len(order)), -1)
    for row, place in enumerate(places):
        here = np.flatnonzero((order[:, [0, 2, 3, 4]] == place).all(1))
        before = np.searchsorted(here, np.arange(len(order)))  # how many of them come before each position
        latest[row, before > 0] = here[before[before > 0] - 1]
    return latest, [place[0] for place in places]


def step_positions(order: np.ndarray, stream: int, steps: int) -> np.ndarray:
    """int64 [t, P]: where in `order` [L, 5] the P codes of each of the `steps` of the stream of that index are."""
    here = np.flatnonzero(order[:, 0] == stream)
    return here[np.lexsort(order[here, :0:-1].T)].reshape(steps, -1)
