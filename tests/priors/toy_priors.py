"""A small prior in any order, which the contract and the sampler are tested on, and orders and specs for it.

It can represent priors to come: the test chooses the order (raster, subscale, controls between the frames), it can read
another level, and every given token conditions all others, before and after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.priors.base import Prior, State, Tokens, raster_order
from tokenreel.sample_random import SampleRandom


def spec_of(*streams: StreamSpec, frames: int) -> TokenSpec:
    return TokenSpec(streams, frames, Framing(height=8, width=8))


def subscale_order(spec: TokenSpec, name: str, factor: tuple[int, int, int]) -> Tensor:
    """Slice by slice (every st-th step, sh-th row, sw-th column), raster order in a slice: LVT, section 3.2."""
    order = raster_order(spec, [name])
    inner = [order[:, axis] // by for axis, by in zip((1, 2, 3), factor, strict=True)]
    offset = [order[:, axis] % by for axis, by in zip((1, 2, 3), factor, strict=True)]
    keys = torch.stack([*offset, *inner, order[:, 4]], 1)
    return order[torch.tensor(sorted(range(len(order)), key=lambda i: keys[i].tolist()))]


def interleaved_order(spec: TokenSpec, names: Sequence[str]) -> Tensor:
    """Step by step, in a step the named streams one after the other: a state before its frame, as in CCVS."""
    order = raster_order(spec, names)
    return order[order[:, 1].argsort(stable=True)]


@dataclass(frozen=True)
class ToyConfig:
    type: ClassVar[str] = "toy"
    width: int = 7


@dataclass
class ToyState(State):
    features: Tensor  # [B, L + 1, D], of each token given or fed; the last column takes writes to be discarded
    summary: Tensor  # [B, D], of all that is given or read


class ToyPrior(Prior):
    """Logits from the sum of the features of all earlier tokens, the position, and a summary of what is given."""

    config_class = ToyConfig
    trained_without_controls = True  # unconditional tokens are like any other to it

    def __init__(
        self, config: ToyConfig, spec: TokenSpec, order: Tensor, predicts: tuple[str, ...], reads: tuple[str, ...] = ()
    ) -> None:
        super().__init__(config, spec, predicts, reads)
        self._order = order
        size = max(spec.stream(name).codebook_size for name in predicts)
        self.scale = len(order) ** -0.5  # keeps the sums where tanh is not flat
        self.token_embedding = nn.Embedding(size + 1, config.width)
        self.position_embedding = nn.Embedding(len(order) + 1, config.width)
        self.feature = nn.Linear(config.width, config.width)
        self.head = nn.Linear(config.width, size)
        self.read = nn.ModuleDict({name: nn.Linear(spec.stream(name).positions, config.width) for name in reads})
        beyond = torch.arange(size) >= self.codebook_sizes()[:, None]
        self.register_buffer("beyond", torch.cat([beyond, beyond[-1:]]), persistent=False)

    def order(self) -> Tensor:
        return self._order

    def _features(self, indices: Tensor, positions: Tensor) -> Tensor:
        return self.feature(torch.sin(self.token_embedding(indices) + self.position_embedding(positions)))

    def _summary(self, features: Tensor, tokens: Tokens, given: Tensor) -> Tensor:
        read = sum(layer(tokens[name].flatten(1).float()) for name, layer in self.read.items())
        return (features * given[:, :, None]).sum(1) * self.scale + read

    def _log_probs(self, before: Tensor, positions: Tensor, summary: Tensor) -> Tensor:
        """[B, n, K] at `positions` [B, n]; `before` [B, n, D] is the sum of the features before each of them."""
        logits = self.head(torch.tanh(before * self.scale + self.position_embedding(positions) + summary[:, None]))
        return logits.masked_fill(self.beyond[positions], -torch.inf).log_softmax(-1)

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        indices = self.flatten(tokens)
        positions = torch.arange(indices.shape[1]).expand_as(indices)
        features = self._features(indices, positions)
        before = torch.ones(indices.shape[1], indices.shape[1]).tril(-1) @ features
        log_probs = self._log_probs(before, positions, self._summary(features, tokens, given))
        indices = indices.masked_fill(given, 0)  # an unconditional token, beyond the codebook, is always given
        return log_probs.gather(2, indices[:, :, None]).squeeze(2).masked_fill(given, 0)

    def loss(self, tokens: Tokens, given: Tensor, random: SampleRandom | None = None) -> Tensor:
        """The nats of one random token of the batch, whose expectation is the mean."""
        random = random or SampleRandom.unrepeatable(len(given), given.device)
        chosen = random.rand(given.shape[1]).masked_fill(given, -1).argmax()
        return -self.log_prob(tokens, given).flatten()[chosen]

    def start(self, tokens: Tokens, given: Tensor) -> ToyState:
        indices = self.flatten(tokens).masked_fill(~given, 0)
        length = indices.shape[1]
        features = self._features(indices, torch.arange(length).expand_as(indices))
        position = given.long().cumprod(1).sum(1)
        state = ToyState(
            position, torch.empty(0), nn.functional.pad(features, (0, 0, 0, 1)), self._summary(features, tokens, given)
        )
        state.log_probs = self._predict(state, position[:, None])[:, 0]
        return state

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        assert isinstance(state, ToyState)
        length = len(self._order)
        offsets = torch.arange(indices.shape[1])
        valid = offsets < count[:, None]
        at = (state.position[:, None] + offsets).where(valid, length)
        indices = indices.where(valid, 0)  # noise may be beyond the codebook
        state.features[torch.arange(len(indices))[:, None], at] = self._features(indices, at)
        after = (state.position[:, None] + offsets + 1).clamp(max=length)
        state.position = state.position + count
        return self._predict(state, after)

    def _predict(self, state: ToyState, positions: Tensor) -> Tensor:
        """Log-probs [B, n, K] at `positions` [B, n] from the features before them."""
        earlier = torch.arange(state.features.shape[1]) < positions[:, :, None]
        return self._log_probs(earlier.to(state.features) @ state.features, positions, state.summary)

    def rewind(self, state: State, position: Tensor) -> None:
        state.position = position.clone()
