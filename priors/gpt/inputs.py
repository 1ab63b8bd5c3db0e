"""Inputs of a GPT at each code besides the code before it: what attention would first have to learn to find.

Each is an option of `GPTConfig`, and a vector that is added up with the others. Not in CCVS, where attention alone
looks back; small models that train for a few hundred steps gain most (`docs/log.md`). Knows no probabilities.

B rows, L positions of the order, n codes fed at once, D width.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.data.spec import END, END_STEP, TokenSpec
from tokenreel.priors.base import Tokens
from tokenreel.priors.gpt.layout import codebooks, embedding_sizes, latest_positions, previous_positions
from tokenreel.priors.layers.tokens import TokenEmbedding


class InputFeature(nn.Module):
    """One such input, for the codes of `spec` in `order`, int64 [L, 5] as `Prior.order` has it."""

    def __init__(self, spec: TokenSpec, order: np.ndarray, width: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, flat: Tensor, tokens: Tokens, target: Tensor | slice) -> Tensor:
        """Vectors [B, n, D] for the positions `target` to be predicted, int64 [B, n] or a range of the order.

        `flat`, int64 [B, L], holds codes in generation order; what stands at a target and after it has no meaning and
        must not be looked at. `tokens` are the clips that sampling starts from: of streams that come whole, the codes.
        """


class PreviousStepToken(InputFeature):
    """The code one step before at the same place, with an embedding of its own; zero at the first step."""

    source: Tensor  # int64 [L], the position of that code; 0 where there is none
    known: Tensor  # float [L, 1], 1 or 0

    def __init__(self, spec: TokenSpec, order: np.ndarray, width: int) -> None:
        super().__init__(spec, order, width)
        source = previous_positions(order)
        self.register_buffer("source", torch.from_numpy(source.clip(0)), persistent=False)
        self.register_buffer("known", torch.from_numpy(source >= 0).float()[:, None], persistent=False)
        streams, book = codebooks(spec, order)
        self.token_embedding = TokenEmbedding(embedding_sizes(streams), torch.from_numpy(book), width)

    def forward(self, flat: Tensor, tokens: Tokens, target: Tensor | slice) -> Tensor:
        indices = flat.gather(1, self.source[target].expand(len(flat), -1))
        x = self.token_embedding(indices, target)
        return x * self.known[target].to(x.dtype)


class LatestControls(InputFeature):
    """The last code before the target at each place of the frame-level tracks: the sum of their vectors.

    Scaled, so that it is no larger for more places.
    """

    source: Tensor  # int64 [S, L] of the S places, the position of that code; 0 where there is none yet
    known: Tensor  # float [S, L, 1], 1 or 0

    def __init__(self, spec: TokenSpec, order: np.ndarray, width: int) -> None:
        super().__init__(spec, order, width)
        tracks = [index for index, stream in enumerate(spec.streams) if stream.role == "control"]
        source, streams = latest_positions(order, tracks)
        self.register_buffer("source", torch.from_numpy(source.clip(0)), persistent=False)
        self.register_buffer("known", torch.from_numpy(source >= 0).float()[..., None], persistent=False)
        self.token_embedding = TokenEmbedding(
            embedding_sizes(spec.streams[index] for index in streams), torch.arange(len(streams)), width
        )

    def forward(self, flat: Tensor, tokens: Tokens, target: Tensor | slice) -> Tensor:
        total = torch.zeros((), device=flat.device)
        for place, (source, known) in enumerate(zip(self.source, self.known, strict=True)):
            indices = flat.gather(1, source[target].expand(len(flat), -1))
            x = self.token_embedding(indices, torch.full((1, 1), place, device=flat.device))
            total = total + x * known[target].to(x.dtype)
        return total / len(self.source) ** 0.5


class EndFrameInput(InputFeature):
    """At the level's codes the end frame's code of the same place, weighted by how far ahead the end lies, and a vector
    of that distance.

    Distances are in steps of the level, negative behind the end; an end that is not given, or whose step is not, has
    one of its own.
    """

    place: Tensor  # int64 [L], which of the end's codes has the same place; 0 where there is none
    step: Tensor  # int64 [L]
    of_level: Tensor  # float [L, 1], 1 or 0

    def __init__(self, spec: TokenSpec, order: np.ndarray, width: int) -> None:
        super().__init__(spec, order, width)
        (level,), self.end = spec.levels, spec.stream(END)
        stream, step, h, w, q = order.T
        of_level = stream == spec.streams.index(level)
        place = np.ravel_multi_index((h * of_level, w * of_level, q * of_level), self.end.shape[1:])
        self.register_buffer("place", torch.from_numpy(place), persistent=False)
        self.register_buffer("step", torch.from_numpy(step.copy()), persistent=False)
        self.register_buffer("of_level", torch.from_numpy(of_level).float()[:, None], persistent=False)
        slices = torch.arange(self.end.positions, device="cpu") % self.end.codebooks
        self.token_embedding = TokenEmbedding([self.end.codebook_size + 1] * self.end.codebooks, slices, width)
        self.farthest = level.grid[0] - 1
        distances = torch.arange(-self.farthest, self.farthest + 1, device="cpu")
        self.distance = nn.Embedding(len(distances) + 1, width)  # the last row: no end
        weights = torch.cat([1 / (1 + distances.abs()), torch.ones(1, device="cpu")])
        self.weight = nn.Parameter(weights)  # at first a far end disturbs little

    def forward(self, flat: Tensor, tokens: Tokens, target: Tensor | slice) -> Tensor:
        end, arrival = tokens[END].long().flatten(1), tokens[END_STEP].long().flatten(1)
        place = self.place[target].expand(len(end), -1)
        indices = end.gather(1, place)
        known = (indices < self.end.codebook_size) & (arrival <= self.farthest)  # a null step is one more
        row = (arrival - self.step[target] + self.farthest).where(known, len(self.weight) - 1)
        x = self.token_embedding(indices, place) * self.weight[row][..., None] + self.distance(row)
        return x * self.of_level[target].to(x.dtype)


FEATURES: dict[str, type[InputFeature]] = {  # by the option of `GPTConfig`, in the order in which they are added up
    "previous_step": PreviousStepToken,
    "latest_controls": LatestControls,
    "end_frame_input": EndFrameInput,
}
