"""How a token is sampled from its probabilities: temperature, top-k, top-p, greedy, and one uniform number.

Sampling inverts the cumulative distribution, in the order of the codebook and in float64, so that similar models or
settings sample the same token for most numbers.

B rows, n positions, K size of the largest codebook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenreel.errors import ConfigError, nearest_name


@dataclass(frozen=True)
class StreamSampling:
    """How the tokens of a stream are sampled. The defaults sample from the prior's own distribution."""

    temperature: float = 1.0  # above 0; log-probs are divided by it
    top_k: int = 0  # sample among so many most likely tokens; 0: all
    top_p: float = 1.0  # in (0, 1]; of these, among the most likely with this fraction of their probability
    greedy: bool = False  # take the most likely token

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature (={self.temperature}) must be above 0; or set greedy")
        if self.top_k < 0:
            raise ConfigError(f"top_k (={self.top_k}) must be at least 1, or 0 for all tokens")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p (={self.top_p}) must be above 0 and at most 1")


@dataclass(frozen=True)
class SamplingConfig(StreamSampling):
    """One setting for all streams, with exceptions by name, and options of the sampler."""

    # tokens drafted per forward pass, copied from the previous frame; affects speed only; 0: none; None: as many as pay
    speculate: int | None = None
    guidance: float = 1.0  # classifier-free guidance scale; 1: off, 0: ignore the controls
    window_stride: int = 0  # stride in frames of the sliding window beyond the trained length; 0: half a clip
    streams: Mapping[str, StreamSampling] = field(default_factory=dict)  # stream name -> its own setting

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.speculate is not None and self.speculate < 0:
            raise ConfigError(
                f"speculate (={self.speculate}) must be at least 1, 0 for none, or None for as many as pay"
            )
        if not 0 <= self.guidance < float("inf"):
            raise ConfigError(f"guidance (={self.guidance}) must be at least 0; 1 is off")
        if self.window_stride < 0:
            raise ConfigError(f"window_stride (={self.window_stride}) must be at least 1 frame, or 0 for half a clip")

    def of_streams(self, names: Sequence[str]) -> list[StreamSampling]:
        """The setting of each of these streams. Raises ConfigError for an exception that names none of them."""
        for name in self.streams:
            if name not in names:
                raise ConfigError(f"sampling: no stream is called {name!r}; {nearest_name(name, names)}")
        return [self.streams.get(name, self) for name in names]


# Settings beyond these leave one possible distribution, the limit, and lead to inf and NaN in float32.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-30, 1e30  # below: greedy, as log-probs divided by it overflow
MIN_TOP_P = 1e-30
MAX_TOP_K = 1 << 62  # of int64


class TokenSampler:
    """Samples tokens at positions of an order in which each position has the setting of its stream."""

    def __init__(self, settings: Sequence[StreamSampling], setting_index: Tensor) -> None:
        """`setting_index`, int64 [L], is the index into `settings` at each position; tokens are sampled on its device.

        Position L, which stands for none, has the setting of the last one.
        """
        device = setting_index.device
        setting_index = torch.cat([setting_index, setting_index[-1:]])
        greedy = [s.greedy or s.temperature < MIN_TEMPERATURE for s in settings]
        self.plain = all(s.temperature == 1 and not s.top_k and s.top_p == 1 and not s.greedy for s in settings)
        self.filters = any(s.top_k or s.top_p < 1 for s in settings)
        self.candidates = 0 if any(not s.top_k for s in settings) else max(s.top_k for s in settings)  # 0: all
        temperature = [min(max(s.temperature, MIN_TEMPERATURE), MAX_TEMPERATURE) for s in settings]
        self.temperature = torch.tensor(temperature, device=device)[setting_index]
        self.top_k = torch.tensor([min(s.top_k or MAX_TOP_K, MAX_TOP_K) for s in settings], device=device)[
            setting_index
        ]
        self.top_p = torch.tensor([max(s.top_p, MIN_TOP_P) for s in settings], device=device)[setting_index]
        self.greedy = torch.tensor(greedy, device=device)[setting_index]

    def __call__(self, log_probs: Tensor, positions: Tensor, numbers: Tensor) -> Tensor:
        """Tokens [B, n] from log_probs [B, n, K] at `positions` [B, n], by uniform `numbers` [B, n], float64."""
        if self.plain:
            return invert_cdf(log_probs.exp(), numbers)
        probs = (log_probs / self.temperature[positions].unsqueeze(-1)).softmax(-1)
        if self.filters:
            probs = self._filter(probs, positions)
        return torch.where(self.greedy[positions], log_probs.argmax(-1), invert_cdf(probs, numbers))

    def _filter(self, probs: Tensor, positions: Tensor) -> Tensor:
        """`probs` with 0 for the tokens that top-k, and then top-p, exclude."""
        size = probs.shape[-1]
        top, indices = probs.topk(min(self.candidates or size, size))
        top = top * (torch.arange(top.shape[-1], device=top.device) < self.top_k[positions].unsqueeze(-1))
        before = top.cumsum(-1, dtype=torch.float64) - top  # 0 before the first token, which so is never excluded
        top = top * (before < self.top_p[positions].unsqueeze(-1) * top.sum(-1, keepdim=True, dtype=torch.float64))
        return torch.zeros_like(probs).scatter_(-1, indices, top)


def invert_cdf(probs: Tensor, numbers: Tensor) -> Tensor:
    """Tokens [...]: the cumulative distribution of `probs` [..., K] inverted at `numbers` [...] in (0, 1).

    The probabilities need not sum to 1. A token of probability 0 is never sampled. For NaN any token below K may be.
    """
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    target = numbers.unsqueeze(-1) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_(max=probs.shape[-1] - 1)
