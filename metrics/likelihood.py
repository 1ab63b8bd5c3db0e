"""bits/code: how many bits a prior needs for a code that nobody gave, on clips that it has not seen.

The mean of -log2 p over the codes of all clips that are not given; what LVT's tables call bits/dim (arXiv 2006.10704,
section 4.2). It says nothing without the number of given frames, and cannot be compared across tokenizers: bits a clip
can. Any prior is scored alike; nothing is known here of its making, nor of pixels.

B clips, L positions of the prior's order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokenreel.data.spec import TokenSpec
from tokenreel.errors import DataError


class Scores(Protocol):
    """What is needed of a prior."""

    spec: TokenSpec
    training: bool

    def eval(self) -> object: ...
    def train(self, mode: bool = True) -> object: ...
    def order(self) -> Tensor: ...
    def log_prob(self, tokens: Mapping[str, Tensor], given: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Likelihood:
    """Bits of the codes that were not given."""

    bits_per_code: float  # mean over codes
    standard_error: float  # of that mean, the clips taken as independent; NaN for one clip
    by_stream: dict[str, float]  # bits per code of each stream that has codes to score
    by_step: dict[str, list[float]]  # the same for each code step; NaN where every code is given
    clip_bits: npt.NDArray[np.float64]  # [N] bits of each whole clip
    codes_per_clip: int  # scored
    given_per_clip: int  # codes


@torch.no_grad()
def bits_per_code(prior: Scores, batches: Iterable[Mapping[str, Tensor]], given: Tensor) -> Likelihood:
    """Scores every clip of `batches` (codes [B, t, h, w, q] by stream name, on the prior's device).

    `given` bool [L] is the same for all clips, as `prior.given_frames(n)` makes it. Raises DataError where nothing is
    left to score.
    """
    free = ~given.cpu()
    training = prior.training
    prior.eval()
    total, clips = torch.zeros(len(free), dtype=torch.double), []  # bits
    for tokens in batches:
        rows = next(iter(tokens.values()))
        bits = prior.log_prob(tokens, given.to(rows.device).expand(len(rows), -1)).double().cpu() / -math.log(2)
        total += bits.sum(0)
        clips.append(bits.sum(1))
    prior.train(training)
    if not clips or not free.any():
        raise DataError("there is nothing to score: no clip, or every code of the clips is given")
    clip_bits, codes = torch.cat(clips).numpy(), int(free.sum())
    error = clip_bits.std(ddof=1) / math.sqrt(len(clip_bits)) / codes if len(clip_bits) > 1 else math.nan
    by_stream, by_step = _by_stream_and_step(prior, total / len(clip_bits), free)
    mean = float(clip_bits.mean()) / codes
    return Likelihood(mean, float(error), by_stream, by_step, clip_bits, codes, len(free) - codes)


def with_streams_of_others(
    batches: Iterable[Mapping[str, Tensor]], names: Collection[str]
) -> Iterator[dict[str, Tensor]]:
    """`batches` in which each clip has the named streams (tracks) of the next clip of its batch, the last one of the
    first: what a control is worth is what the codes cost more so. Raises DataError for a batch of one clip.
    """
    for tokens in batches:
        if len(next(iter(tokens.values()))) < 2:
            raise DataError("a batch of one clip has no other clip to take streams from: use batches of two or more")
        yield {name: codes.roll(-1, 0) if name in names else codes for name, codes in tokens.items()}


def _by_stream_and_step(prior: Scores, bits: Tensor, free: Tensor) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Means of `bits` [L] over the free codes of each stream, and of each step of each stream."""
    order, by_stream, by_step = prior.order(), {}, {}
    for index, stream in enumerate(prior.spec.streams):
        here = (order[:, 0] == index) & free
        if here.any():
            by_stream[stream.name] = float(bits[here].mean())
            by_step[stream.name] = [float(bits[here & (order[:, 1] == t)].mean()) for t in range(stream.grid[0])]
    return by_stream, by_step
