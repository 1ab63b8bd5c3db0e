"""A small prior that sees everything it may, in any order: what the contract and the sampler are tried on.

It stands for systems to come. Its order is the test's choice (raster, subscale, tracks between the frames), it can read
another level whole, and every given code conditions all others, before or after it, as an encoder's priming frames do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.priors.base import Prior, State, Tokens, raster_order


def spec_of(*streams: StreamSpec, frames: int) -> TokenSpec:
    return TokenSpec(streams, frames, Framing(height=8, width=8))


def subscale_order(spec: TokenSpec, name: str, factor: tuple[int, int, int]) -> Tensor:
    """Slice by slice (every st-th step, sh-th row, sw-th column), raster inside a slice: LVT, section 3.2."""
    order = raster_order(spec, [name])
    inner = [order[:, axis] // by for axis, by in zip((1, 2, 3), factor, strict=True)]
    offset = [order[:, axis] % by for axis, by in zip((1, 2, 3), factor, strict=True)]
    keys = torch.stack([*offset, *inner, order[:, 4]], 1)
    return order[torch.tensor(sorted(range(len(order)), key=lambda i: keys[i].tolist()))]


def interleaved_order(spec: TokenSpec, names: Sequence[str]) -> Tensor:
    """Step by step, the named streams one after the other within a step: a state before its frame, as CCVS does."""
    order = raster_order(spec, names)
    return order[order[:, 1].argsort(stable=True)]


@dataclass(frozen=True)
class ToyConfig:
    type: ClassVar[str] = "toy"
    width: int = 7


@dataclass
class ToyState(State):
    features: Tensor  # [B, L + 1, D], of each code fed
    summary: Tensor  # [B, D], of all that is given or read


class Toy(Prior):
    """Logits from the sum of the features of all earlier codes, the position, and a summary of what is given."""

    config_class = ToyConfig
    trained_without_controls = True  # null codes mean to it what all others do

    def __init__(
        self, config: ToyConfig, spec: TokenSpec, order: Tensor, predicts: tuple[str, ...], reads: tuple[str, ...] = ()
    ) -> None:
        super().__init__(config, spec, predicts, reads)
        self._order = order
        indices = max(spec.stream(name).codebook_size for name in predicts)
        self.scale = len(order) ** -0.5  # keeps the sums where tanh is not flat
        self.code = nn.Embedding(indices + 1, config.width)
        self.place = nn.Embedding(len(order) + 1, config.width)
        self.feature = nn.Linear(config.width, config.width)
        self.head = nn.Linear(config.width, indices)
        self.reading = nn.ModuleDict({name: nn.Linear(spec.stream(name).positions, config.width) for name in reads})
        beyond = torch.arange(indices) >= self.codebook_sizes()[:, None]
        self.register_buffer("beyond", torch.cat([beyond, beyond[-1:]]), persistent=False)

    def order(self) -> Tensor:
        return self._order

    def _features(self, indices: Tensor, positions: Tensor) -> Tensor:
        return self.feature(torch.sin(self.code(indices) + self.place(positions)))

    def _summary(self, features: Tensor, tokens: Tokens, given: Tensor) -> Tensor:
        read = sum(layer(tokens[name].flatten(1).float()) for name, layer in self.reading.items())
        return (features * given[:, :, None]).sum(1) * self.scale + read

    def _log_probs(self, before: Tensor, positions: Tensor, summary: Tensor) -> Tensor:
        """before [B, n, D]: the sum of the features before each of `positions` [B, n]."""
        logits = self.head(torch.tanh(before * self.scale + self.place(positions) + summary[:, None]))
        return logits.masked_fill(self.beyond[positions], -torch.inf).log_softmax(-1)

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        indices = self.flatten(tokens)
        positions = torch.arange(indices.shape[1]).expand_as(indices)
        features = self._features(indices, positions)
        before = torch.ones(indices.shape[1], indices.shape[1]).tril(-1) @ features
        log_probs = self._log_probs(before, positions, self._summary(features, tokens, given))
        indices = indices.masked_fill(given, 0)  # a null code, beyond the codebook, is always given
        return log_probs.gather(2, indices[:, :, None]).squeeze(2).masked_fill(given, 0)

    def loss(self, tokens: Tokens, given: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """On one code drawn for each batch: one unit of the order instead of all, right on average."""
        free = (~given).flatten().nonzero()
        chosen = free[torch.randint(len(free), (1,), generator=generator)]
        return -self.log_prob(tokens, given).flatten()[chosen].squeeze()

    def start(self, tokens: Tokens, given: Tensor) -> ToyState:
        indices = self.flatten(tokens).masked_fill(~given, 0)
        length = indices.shape[1]
        features = self._features(indices, torch.arange(length).expand_as(indices))
        position = given.long().cumprod(1).sum(1)
        state = ToyState(
            position, torch.empty(0), nn.functional.pad(features, (0, 0, 0, 1)), self._summary(features, tokens, given)
        )
        state.log_probs = self._after(state, position[:, None])[:, 0]
        return state

    def step(self, state: State, indices: Tensor, count: Tensor) -> Tensor:
        assert isinstance(state, ToyState)
        length = len(self._order)
        lines = torch.arange(indices.shape[1])
        valid = lines < count[:, None]
        at = (state.position[:, None] + lines).where(valid, length)
        indices = indices.where(valid, 0)  # noise may lie beyond the codebook
        state.features[torch.arange(len(indices))[:, None], at] = self._features(indices, at)
        after = (state.position[:, None] + lines + 1).clamp(max=length)
        state.position = state.position + count
        return self._after(state, after)

    def _after(self, state: ToyState, positions: Tensor) -> Tensor:
        """Log-probs [B, n, K] at `positions` [B, n] from the features before them."""
        earlier = torch.arange(state.features.shape[1]) < positions[:, :, None]
        return self._log_probs(earlier.to(state.features) @ state.features, positions, state.summary)

    def rewind(self, state: State, position: Tensor) -> None:
        state.position = position.clone()
