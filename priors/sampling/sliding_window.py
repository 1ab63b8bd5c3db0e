"""Sliding window: how a video longer than the training clips is sampled.

Where the windows are, which tokens of earlier windows and which given ones each of them contains, and where an end
frame is in it.

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
class WindowSpan:
    """One window in a video: the clip that starts at frame `start`."""

    start: int  # frame of the video
    overlap: int  # frames of the window that earlier windows contain
    frames: int  # frames of the window that the video has: all, unless the video is shorter than a clip


def window_spans(
    spec: TokenSpec, running: Sequence[StreamSpec], frames: int, window_stride: int
) -> Iterator[WindowSpan]:
    """The windows of a video of `frames`, `window_stride` frames apart (0: half a clip); the last one ends with it.

    Raises ConfigError where the frames or the stride do not fill whole steps of a `running` stream (one that runs with
    the video), and where tokens of this spec do not allow a sliding window.
    """
    for stream in running:
        spec.steps_of_frames(frames, stream)
    if frames < 1:
        raise ConfigError(f"frames (={frames}) must be at least 1")
    if frames > spec.frames:
        window_stride = _resolve_stride(spec, running, window_stride)
    start, end = 0, 0
    while True:
        yield WindowSpan(start, end - start, min(frames, spec.frames))
        end = start + spec.frames
        if end >= frames:
            return
        start = min(start + window_stride, frames - spec.frames)


def _resolve_stride(spec: TokenSpec, running: Sequence[StreamSpec], window_stride: int) -> int:
    if spec.time != "framewise":
        raise ConfigError(
            f"a video longer than the clip's {spec.frames} frames requires framewise tokens; what {spec.time} "
            "tokens mean depends on their step"
        )
    stride = math.lcm(*(stream.stride for stream in running))
    window_stride = window_stride or max(spec.frames // 2 // stride, 1) * stride
    if window_stride % stride or not 0 < window_stride < spec.frames:
        raise ConfigError(
            f"window_stride (={window_stride}) must be below the clip's {spec.frames} frames and a multiple of "
            f"{stride}, the frames of whole code steps"
        )
    return window_stride


def check_given_steps(prior: Prior, tokens: Tokens, running: Sequence[StreamSpec], frames: int) -> None:
    """Raises ConfigError where `tokens` have more steps than the video, or fewer than the prior reads."""
    for stream in running:
        steps = tokens[stream.name].shape[1] if stream.name in tokens else 0
        total = prior.spec.steps_of_frames(frames, stream)
        required = max(total, stream.grid[0]) if stream.name in prior.reads else 0
        if steps < required:
            raise ConfigError(f"tokens have {steps} steps of stream {stream.name!r}, but the prior reads {required}")
        if steps > max(total, required):
            raise ConfigError(f"tokens have {steps} steps of stream {stream.name!r}, but the video has {total}")


def advance(known: dict[str, Tensor], given: Tensor | None, stream: StreamSpec, span: WindowSpan) -> None:
    """Moves a running stream in `known` to the window `span`: the tokens that overlap with the last window, then those
    of `given`, the stream's given steps from the start of the video, that come after.
    """
    first, overlap = span.start // stream.stride, span.overlap // stream.stride
    parts = []
    if overlap:
        parts.append(known[stream.name][:, -overlap:])
    if given is not None:
        parts.append(given[:, first + overlap : first + stream.grid[0]])
    if parts:
        known[stream.name] = torch.cat(parts, 1)


def window_tokens(prior: Prior, known: Tokens, rows: int, span: WindowSpan) -> tuple[dict[str, Tensor], Tensor]:
    """The known tokens of the window as complete streams, and which they are, bool [B, L]: the first steps of each."""
    step, tokens = prior.order()[:, 1], dict[str, Tensor]()
    given = torch.zeros(len(step), dtype=torch.bool)
    for name, indices in known.items():
        stream = prior.spec.stream(name)
        missing = indices.new_zeros(len(indices), stream.grid[0] - indices.shape[1], *indices.shape[2:])
        tokens[name] = torch.cat([indices, missing], 1)
        given |= prior.positions_of(name) & (step < indices.shape[1])
    if END in tokens and END_STEP in tokens:
        tokens |= _end_in_window(prior.spec, tokens, span)
    return tokens, given.expand(rows, -1)


def _end_in_window(spec: TokenSpec, tokens: Tokens, span: WindowSpan) -> dict[str, Tensor]:
    """An end frame with its step in the video -> with its step in the window; unconditional tokens where outside."""
    end, steps = spec.stream(END), spec.stream(END_STEP)
    step = tokens[END_STEP] - span.start // spec.levels[0].stride
    inside = (tokens[END][:, :, :1, :1, :1] < end.codebook_size) & (step >= 0) & (step < steps.codebook_size)
    return {END: tokens[END].where(inside, end.codebook_size), END_STEP: step.where(inside, steps.codebook_size)}
