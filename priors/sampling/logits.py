"""From the probabilities of a code to the code: temperature, top-k, top-p, greedy, and one uniform number.

The draw inverts the cumulative distribution in code order, in float64, so that close models or settings draw the same
code for most numbers. Knows nothing of orders and caches. B rows, n positions, K codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenreel.errors import ConfigError, nearest_name


@dataclass(frozen=True)
class StreamSampling:
    """How the codes of a stream are chosen. The defaults draw from the prior's own distribution."""

    temperature: float = 1.0  # above 0; log-probs are divided by it
    top_k: int = 0  # codes; only the likeliest ones stay; 0: all
    top_p: float = 1.0  # in (0, 1]; of those, the likeliest stay that hold at least this share of their probability
    greedy: bool = False  # the likeliest code, nothing drawn

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature (={self.temperature}) must be above 0; for the likeliest code use greedy")
        if self.top_k < 0:
            raise ConfigError(f"top_k (={self.top_k}) must be at least 1, or 0 for all codes")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p (={self.top_p}) must be above 0 and at most 1")


@dataclass(frozen=True)
class SamplingConfig(StreamSampling):
    """One setting for all streams, with exceptions by name, and how the sampler goes about it."""

    speculate: int = 0  # codes proposed a forward, copied from the frame before; changes the speed, not the codes
    guidance: float = 1.0  # how far given controls are followed: 1 as the prior does, 0 not at all, above 1 beyond it
    window_stride: int = 0  # frames by which the window moves past the trained length; 0: half of the clip
    streams: Mapping[str, StreamSampling] = field(default_factory=dict)  # stream name -> its own setting

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.speculate < 0:
            raise ConfigError(f"speculate (={self.speculate}) must be at least 1, or 0 for none")
        if not 0 <= self.guidance < float("inf"):
            raise ConfigError(f"guidance (={self.guidance}) must be at least 0; 1 is none")
        if self.window_stride < 0:
            raise ConfigError(
                f"window_stride (={self.window_stride}) must be at least 1 frame, or 0 for half of the clip"
            )

    def of_streams(self, names: Sequence[str]) -> list[StreamSampling]:
        """The setting of each of these streams. Raises ConfigError for an exception whose stream is none of them."""
        for name in self.streams:
            if name not in names:
                raise ConfigError(f"sampling: no stream is called {name!r}; {nearest_name(name, names)}")
        return [self.streams.get(name, self) for name in names]


class Choice:
    """Chooses codes at positions of an order in which each position has its stream's setting."""

    def __init__(self, settings: Sequence[StreamSampling], of_position: Tensor) -> None:
        """`of_position` int64 [L]: the index into `settings` at each position; its device is where codes are chosen.

        The position L stands for none, and takes the last one's setting.
        """
        device = of_position.device
        of_position = torch.cat([of_position, of_position[-1:]])
        self.plain = all(s.temperature == 1 and not s.top_k and s.top_p == 1 and not s.greedy for s in settings)
        self.filters = any(s.top_k or s.top_p < 1 for s in settings)
        self.candidates = 0 if any(not s.top_k for s in settings) else max(s.top_k for s in settings)  # 0: all
        self.temperature = torch.tensor([s.temperature for s in settings], device=device)[of_position]
        self.top_k = torch.tensor([s.top_k or 2**62 for s in settings], device=device)[of_position]
        self.top_p = torch.tensor([s.top_p for s in settings], device=device)[of_position]
        self.greedy = torch.tensor([s.greedy for s in settings], device=device)[of_position]

    def __call__(self, log_probs: Tensor, positions: Tensor, numbers: Tensor) -> Tensor:
        """Codes [B, n] out of log_probs [B, n, K] at `positions` [B, n], each by its uniform number [B, n] float64."""
        if self.plain:
            return draw(log_probs.exp(), numbers)
        scaled = (log_probs / self.temperature[positions].unsqueeze(-1)).softmax(-1)
        if self.filters:
            scaled = self._likeliest(scaled, positions)
        return torch.where(self.greedy[positions], log_probs.argmax(-1), draw(scaled, numbers))

    def _likeliest(self, probs: Tensor, positions: Tensor) -> Tensor:
        """`probs` with 0 for the codes that top-k, and then top-p, leave out."""
        size = probs.shape[-1]
        top, indices = probs.topk(min(self.candidates or size, size))
        top = top * (torch.arange(top.shape[-1], device=top.device) < self.top_k[positions].unsqueeze(-1))
        before = top.cumsum(-1, dtype=torch.float64) - top  # the first code always stays: nothing is before it
        top = top * (before < self.top_p[positions].unsqueeze(-1) * top.sum(-1, keepdim=True, dtype=torch.float64))
        return torch.zeros_like(probs).scatter_(-1, indices, top)


def draw(probs: Tensor, numbers: Tensor) -> Tensor:
    """Codes [...]: the cumulative `probs` [..., K] inverted at `numbers` [...] in (0, 1).

    The probabilities need not sum to 1; a code of probability 0 is never drawn. Should they be NaN, the code is still
    one of the K.
    """
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    target = numbers.unsqueeze(-1) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_(max=probs.shape[-1] - 1)
