"""Sliding window: how a video longer than the training clips is sampled.

Where the windows lie, what each one holds of the windows before it and of what was given, and where an end frame lies
in it. Tokens in, tokens out; nothing is sampled here.

B rows (samples), L positions of the prior's order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreel.data.spec import END, END_STEP, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior, Tokens


@dataclass(frozen=True)
class Placement:
    """One window in a video: the clip that starts at frame `start`."""

    start: int  # frame of the video
    done: int  # frames of the window that windows before it have settled
    wanted: int  # frames of the window that the video has; all but where the video is shorter than a clip


def placements(spec: TokenSpec, running: Sequence[StreamSpec], frames: int, window_stride: int) -> Iterator[Placement]:
    """The windows of a video of `frames`, `window_stride` frames apart (0: half a clip); the last one ends with it.

    Raises ConfigError where the frames or the slide do not fill whole steps of a `running` stream, or the codes of the
    spec cannot slide.
    """
    for stream in running:
        spec.steps_of_frames(frames, stream)
    if frames < 1:
        raise ConfigError(f"frames (={frames}) must be at least 1")
    if frames > spec.frames:
        window_stride = _slide(spec, running, window_stride)
    start, done = 0, 0
    while True:
        yield Placement(start, done - start, min(frames, spec.frames))
        done = start + spec.frames
        if done >= frames:
            return
        start = min(start + window_stride, frames - spec.frames)


def _slide(spec: TokenSpec, running: Sequence[StreamSpec], window_stride: int) -> int:
    if spec.time != "framewise":
        raise ConfigError(
            f"a video longer than the clip's {spec.frames} frames needs framewise tokens; with {spec.time} ones a code "
            "means something else at another step"
        )
    stride = math.lcm(*(stream.stride for stream in running))
    window_stride = window_stride or max(spec.frames // 2 // stride, 1) * stride
    if window_stride % stride or not 0 < window_stride < spec.frames:
        raise ConfigError(
            f"window_stride (={window_stride}) must be below the clip's {spec.frames} frames and a multiple of "
            f"{stride}, the frames of whole code steps"
        )
    return window_stride


def check_beginnings(prior: Prior, tokens: Tokens, running: Sequence[StreamSpec], frames: int) -> None:
    """Raises ConfigError where more is given than the video has, or less than the prior reads."""
    for stream in running:
        steps = tokens[stream.name].shape[1] if stream.name in tokens else 0
        whole = prior.spec.steps_of_frames(frames, stream)
        needed = max(whole, stream.grid[0]) if stream.name in prior.reads else 0
        if steps < needed:
            raise ConfigError(f"tokens hold {steps} steps of stream {stream.name!r}; the prior reads {needed} of it")
        if steps > max(whole, needed):
            raise ConfigError(f"tokens hold {steps} steps of stream {stream.name!r}, more than the video's {whole}")


def carry(held: dict[str, Tensor], begun: Tensor | None, stream: StreamSpec, place: Placement) -> None:
    """Takes a running stream to the window at `place`: what the last one left of it, then what was `begun` beyond."""
    first, overlap = place.start // stream.stride, place.done // stream.stride
    parts = []
    if overlap:
        parts.append(held[stream.name][:, -overlap:])
    if begun is not None:
        parts.append(begun[:, first + overlap : first + stream.grid[0]])
    if parts:
        held[stream.name] = torch.cat(parts, 1)


def window_tokens(prior: Prior, held: Tokens, rows: int, place: Placement) -> tuple[dict[str, Tensor], Tensor]:
    """What is held of the window at `place` as whole streams, and the mask bool [B, L] of it: their first steps."""
    step, tokens = prior.order()[:, 1], dict[str, Tensor]()
    given = torch.zeros(len(step), dtype=torch.bool)
    for name, indices in held.items():
        stream = prior.spec.stream(name)
        missing = indices.new_zeros(len(indices), stream.grid[0] - indices.shape[1], *indices.shape[2:])
        tokens[name] = torch.cat([indices, missing], 1)
        given |= prior.positions_of(name) & (step < indices.shape[1])
    if END in tokens and END_STEP in tokens:
        tokens |= _end_in_window(prior.spec, tokens, place)
    return tokens, given.expand(rows, -1)


def _end_in_window(spec: TokenSpec, tokens: Tokens, place: Placement) -> dict[str, Tensor]:
    """An end frame and its step of the video -> its step of the window; null codes where it lies outside."""
    end, steps = spec.stream(END), spec.stream(END_STEP)
    step = tokens[END_STEP] - place.start // spec.levels[0].stride
    inside = (tokens[END][:, :, :1, :1, :1] < end.codebook_size) & (step >= 0) & (step < steps.codebook_size)
    return {END: tokens[END].where(inside, end.codebook_size), END_STEP: step.where(inside, steps.codebook_size)}
