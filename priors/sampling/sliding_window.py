"""What a window of a long video holds: what the windows before it left, what was begun, where the end frame lies in it.

Tokens in, tokens out; knows which steps there are and draws nothing.

B rows (samples), L positions of the prior's order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenreel.data.spec import END, END_STEP, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior, Tokens
from tokenreel.priors.sampling.schedule import Placement


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
    for name, codes in held.items():
        stream = prior.spec.stream(name)
        missing = codes.new_zeros(len(codes), stream.grid[0] - codes.shape[1], *codes.shape[2:])
        tokens[name] = torch.cat([codes, missing], 1)
        given |= prior.positions_of(name) & (step < codes.shape[1])
    if END in tokens and END_STEP in tokens:
        tokens |= _end_in_window(prior.spec, tokens, place)
    return tokens, given.expand(rows, -1)


def _end_in_window(spec: TokenSpec, tokens: Tokens, place: Placement) -> dict[str, Tensor]:
    """An end frame and its step of the video -> its step of the window; null codes where it lies outside."""
    end, steps = spec.stream(END), spec.stream(END_STEP)
    step = tokens[END_STEP] - place.start // spec.levels[0].stride
    inside = (tokens[END][:, :, :1, :1, :1] < end.codes) & (step >= 0) & (step < steps.codes)
    return {END: tokens[END].where(inside, end.codes), END_STEP: step.where(inside, steps.codes)}
