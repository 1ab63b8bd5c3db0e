"""bits/code: mean negative log2 probability of the tokens that are not given, on held-out clips.

LVT's tables call it bits/dim (arXiv 2006.10704, section 4.2). It depends on the number of given frames, and cannot be
compared across tokenizers; bits per clip can.

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


class ScoredPrior(Protocol):
    """The methods of a prior that scoring needs."""

    spec: TokenSpec
    training: bool

    def eval(self) -> object: ...
    def train(self, mode: bool = True) -> object: ...
    def order(self) -> Tensor: ...
    def log_prob(self, tokens: Mapping[str, Tensor], given: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Likelihood:
    """Bits of the tokens that were not given."""

    bits_per_code: float  # mean over tokens
    by_stream: dict[str, float]  # bits/code of each stream with tokens to score
    by_step: dict[str, list[float]]  # bits/code of each code step of these streams; NaN if all its tokens are given
    clip_bits: npt.NDArray[np.float64]  # [N], bits of each clip


@torch.no_grad()
def bits_per_code(prior: ScoredPrior, batches: Iterable[Mapping[str, Tensor]], given: Tensor) -> Likelihood:
    """Scores every clip of `batches` (tokens [B, t, h, w, q] by stream name, on the prior's device).

    `given` bool [L] is the same for all clips, as returned by `prior.given_frames(n)`. Raises DataError if there is
    nothing to score.
    """
    scored = ~given.cpu()
    training = prior.training
    prior.eval()
    total, clips = torch.zeros(len(scored), dtype=torch.double), []  # bits
    for tokens in batches:
        rows = next(iter(tokens.values()))
        bits = prior.log_prob(tokens, given.to(rows.device).expand(len(rows), -1)).double().cpu() / -math.log(2)
        total += bits.sum(0)
        clips.append(bits.sum(1))
    prior.train(training)
    if not clips or not scored.any():
        raise DataError("nothing to score: there are no clips, or all of their tokens are given")
    clip_bits = torch.cat(clips).numpy()
    by_stream, by_step = _by_stream_and_step(prior, total / len(clip_bits), scored)
    return Likelihood(float(clip_bits.mean()) / int(scored.sum()), by_stream, by_step, clip_bits)


def permute_streams(batches: Iterable[Mapping[str, Tensor]], names: Collection[str]) -> Iterator[dict[str, Tensor]]:
    """`batches` in which each clip has the named streams of the next clip of its batch (the last: of the first).

    The value of a control is the increase of bits/code with permuted control streams. Raises DataError for a batch of
    one clip.
    """
    for tokens in batches:
        if len(next(iter(tokens.values()))) < 2:
            raise DataError("a batch of one clip has no other clip to permute streams with: use batches of two or more")
        yield {name: stream.roll(-1, 0) if name in names else stream for name, stream in tokens.items()}


def _by_stream_and_step(
    prior: ScoredPrior, bits: Tensor, scored: Tensor
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Means of `bits` [L] over the scored tokens of each stream, and of each step of each stream."""
    order, by_stream, by_step = prior.order(), {}, {}
    for index, stream in enumerate(prior.spec.streams):
        mask = (order[:, 0] == index) & scored
        if mask.any():
            by_stream[stream.name] = float(bits[mask].mean())
            by_step[stream.name] = [float(bits[mask & (order[:, 1] == t)].mean()) for t in range(stream.grid[0])]
    return by_stream, by_step
