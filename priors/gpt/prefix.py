"""The beginning of a GPT's sequence: the controls of the whole clip (CCVS section 3.3: class, end frame), as vectors.

They are not predicted. A control token has its own embedding and its own position embedding. A token of the end frame
is embedded as the level's own, at its position in the step at which the clip is to arrive, so that attention finds it
as it finds the previous frame. Unconditional tokens of the end frame have an embedding of their own.

B rows, P tokens of the prefix, L positions of the order, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.data.spec import END, END_STEP, StreamSpec, TokenSpec
from tokenreel.priors.base import Tokens, vocabulary_size
from tokenreel.priors.gpt.order import step_positions
from tokenreel.priors.layers.tokens import TokenEmbedding


class Prefix(nn.Module):
    """The named control streams, each of one step, -> [B, P, D], the end frame last.

    `order` [L, 5] is that of the tokens after the prefix.
    """

    end_positions: Tensor  # int64 [t, tokens of the end frame], the positions of the end frame's tokens at each step

    def __init__(self, spec: TokenSpec, names: Sequence[str], order: np.ndarray, width: int) -> None:
        super().__init__()
        self.controls = [spec.stream(name) for name in names if name not in (END, END_STEP)]
        self.end = spec.stream(END) if END in names else None
        self.length = sum(control.positions for control in self.controls) + (self.end.positions if self.end else 0)
        self.position_embedding = nn.Embedding(self.length, width)
        if self.controls:
            self.token_embedding = _token_embedding(self.controls, width)
        if self.end is not None:
            (level,) = spec.levels
            end_positions = step_positions(order, spec.streams.index(level), level.grid[0])
            self.register_buffer("end_positions", torch.from_numpy(end_positions), persistent=False)
            self.no_end = nn.Embedding(1, width)

    def forward(self, tokens: Tokens, level_embedding: TokenEmbedding, positions: Tensor) -> Tensor:
        """`level_embedding` and `positions` [L, D] are those of the tokens after the prefix."""
        parts = []
        if self.controls:
            flat = torch.cat([tokens[control.name].long().flatten(1) for control in self.controls], 1)
            parts.append(self.token_embedding(flat, slice(None)))
        if self.end is not None:
            parts.append(self._end(tokens[END].long().flatten(1), tokens[END_STEP].long(), level_embedding, positions))
        return torch.cat(parts, 1) + self.position_embedding.weight

    def _end(self, indices: Tensor, step: Tensor, level_embedding: TokenEmbedding, positions: Tensor) -> Tensor:
        """Vectors of the end frame's tokens [B, P] at `step` [B, 1, 1, 1, 1], unconditional tokens included."""
        assert self.end is not None
        step, has_step = step.flatten(), step.flatten(1) < len(self.end_positions)
        known = indices < self.end.codebook_size
        x = level_embedding(indices.where(known, 0), self.end_positions[0])
        x = x.where(known[..., None], self.no_end.weight)
        return x + positions[self.end_positions[step.where(has_step[:, 0], 0)]] * has_step[..., None]


def _token_embedding(controls: Sequence[StreamSpec], width: int) -> TokenEmbedding:
    """For the tokens of the controls one after the other; each codebook of each control has its own embeddings."""
    sizes, index = list[int](), list[np.ndarray]()
    for control in controls:
        codebooks = np.arange(control.codebooks) + len(sizes)
        index.append(np.tile(codebooks, control.positions // control.codebooks))
        sizes += [vocabulary_size(control)] * control.codebooks
    return TokenEmbedding(sizes, torch.from_numpy(np.concatenate(index)), width)
