"""The end frame's code at the place to be predicted, and how far ahead it lies, as an input at each code of a GPT.

In the prefix alone, as CCVS has it, attention must first find it, and learn which distance says what. On Tabletop a
small prior had not begun to after 800 steps: the end of another clip cost it 0.0006 bits/code more. With this input it
costs 0.50 more, and 0.63 after 2,000 steps. Not in CCVS. Knows no probabilities.

B rows, L positions of the order, n codes fed at once, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.data.spec import END, END_STEP, TokenSpec
from tokenreel.priors.base import Tokens
from tokenreel.priors.layers.tokens import CodeEmbedding


class EndAhead(nn.Module):
    """For each position to be predicted the vector of the end frame's code, weighted by distance, and the distance's.

    Distances are in steps of the level, negative behind the end; an end that is not given, or whose step is not, has
    one of its own.
    """

    place: Tensor  # int64 [L], which of the end's codes has the same place; 0 where there is none
    step: Tensor  # int64 [L]
    of_level: Tensor  # float [L, 1], 1 or 0

    def __init__(self, spec: TokenSpec, order: np.ndarray, width: int) -> None:
        super().__init__()
        (level,), self.end = spec.levels, spec.stream(END)
        stream, step, h, w, q = order.T
        of_level = stream == spec.streams.index(level)
        place = np.ravel_multi_index((h * of_level, w * of_level, q * of_level), self.end.shape[1:])
        self.register_buffer("place", torch.from_numpy(place), persistent=False)
        self.register_buffer("step", torch.from_numpy(step.copy()), persistent=False)
        self.register_buffer("of_level", torch.from_numpy(of_level).float()[:, None], persistent=False)
        slices = torch.arange(self.end.positions, device="cpu") % self.end.codebooks
        self.codes = CodeEmbedding([self.end.codes + 1] * self.end.codebooks, slices, width)
        self.farthest = level.grid[0] - 1
        distances = torch.arange(-self.farthest, self.farthest + 1, device="cpu")
        self.distance = nn.Embedding(len(distances) + 1, width)  # the last row: no end
        weights = torch.cat([1 / (1 + distances.abs()), torch.ones(1, device="cpu")])
        self.weight = nn.Parameter(weights)  # at first a far end disturbs little

    def forward(self, tokens: Tokens, target: Tensor | slice) -> Tensor:
        """The end frame of `tokens`, null codes included, beside the codes at `target` -> [B, n, D]."""
        end, arrival = tokens[END].long().flatten(1), tokens[END_STEP].long().flatten(1)
        place = self.place[target].expand(len(end), -1)
        codes = end.gather(1, place)
        known = (codes < self.end.codes) & (arrival <= self.farthest)  # a null step is one more
        row = (arrival - self.step[target] + self.farthest).where(known, len(self.weight) - 1)
        x = self.codes(codes, place) * self.weight[row][..., None] + self.distance(row)
        return x * self.of_level[target].to(x.dtype)
