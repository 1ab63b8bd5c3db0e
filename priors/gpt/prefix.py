"""The beginning of a GPT's sequence: what steers the whole clip (CCVS section 3.3: class, end frame), as vectors.

No loss falls on it. A track's code has its own embedding and its own place. A code of the end frame is embedded as the
level's own, at the position that it has in the step where the clip is to arrive, so that attention finds it as it
finds the frame before; what is not given has a vector that says so.

B rows, P codes of the prefix, L positions of the order, D width, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.data.spec import END, END_STEP, StreamSpec, TokenSpec
from tokenreel.priors.base import Tokens
from tokenreel.priors.gpt.layout import embedding_sizes, step_positions
from tokenreel.priors.layers.tokens import TokenEmbedding


class Prefix(nn.Module):
    """The named tracks, each of one step, -> [B, P, D], the end frame last. `order` [L, 5] is that of the codes."""

    arrivals: Tensor  # int64 [t, end's codes], the position in the order of each code of the end frame, by its step

    def __init__(self, spec: TokenSpec, names: Sequence[str], order: np.ndarray, width: int) -> None:
        super().__init__()
        self.tracks = [spec.stream(name) for name in names if name not in (END, END_STEP)]
        self.end = spec.stream(END) if END in names else None
        self.length = sum(track.positions for track in self.tracks) + (self.end.positions if self.end else 0)
        self.place = nn.Embedding(self.length, width)
        if self.tracks:
            self.token_embedding = _embedding(self.tracks, width)
        if self.end is not None:
            (level,) = spec.levels
            arrivals = step_positions(order, spec.streams.index(level), level.grid[0])
            self.register_buffer("arrivals", torch.from_numpy(arrivals), persistent=False)
            self.no_end = nn.Embedding(1, width)

    def forward(self, tokens: Tokens, level_codes: TokenEmbedding, positions: Tensor) -> Tensor:
        """`level_codes` and `positions` [L, D] are those of the codes after the prefix."""
        parts = []
        if self.tracks:
            flat = torch.cat([tokens[track.name].long().flatten(1) for track in self.tracks], 1)
            parts.append(self.token_embedding(flat, slice(None)))
        if self.end is not None:
            parts.append(self._end(tokens[END].long().flatten(1), tokens[END_STEP].long(), level_codes, positions))
        return torch.cat(parts, 1) + self.place.weight

    def _end(self, indices: Tensor, step: Tensor, level_codes: TokenEmbedding, positions: Tensor) -> Tensor:
        """codes [B, P] at `step` [B, 1, 1, 1, 1], null codes included."""
        assert self.end is not None
        step, known, timed = step.flatten(), indices < self.end.codebook_size, step.flatten(1) < len(self.arrivals)
        x = level_codes(indices.where(known, 0), self.arrivals[0]).where(known[..., None], self.no_end.weight)
        return x + positions[self.arrivals[step.where(timed[:, 0], 0)]] * timed[..., None]


def _embedding(tracks: Sequence[StreamSpec], width: int) -> TokenEmbedding:
    """One codebook for each slice of each track, null codes included, over all codes of the tracks in their order."""
    sizes, books = list[int](), list[np.ndarray]()
    for track in tracks:
        slices = np.arange(track.codebooks) + len(sizes)
        books.append(np.tile(slices, track.positions // track.codebooks))
        sizes += embedding_sizes([track] * track.codebooks)
    return TokenEmbedding(sizes, torch.from_numpy(np.concatenate(books)), width)
