"""Additional inputs of a GPT at each token: tokens that attention would otherwise have to learn to find.

Each is an option of `GPTConfig`, and a vector that is added to the token's input. They are not in CCVS, where attention
alone looks back; small models that train for a few hundred steps gain most (`docs/log.md`).

B rows, L positions of the order, n tokens fed at once, D width.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.data.spec import END, END_STEP
from tokenreel.priors.base import Prior, Tokens, vocabulary_size
from tokenreel.priors.gpt.order import latest_positions, previous_positions
from tokenreel.priors.layers.tokens import TokenEmbedding


class InputFeature(nn.Module):
    """One such input, for the order and the spec of `prior`."""

    def __init__(self, prior: Prior, width: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, flat: Tensor, tokens: Tokens, target: Tensor | slice) -> Tensor:
        """Vectors [B, n, D] for the positions `target` to be predicted, int64 [B, n] or a range of the order.

        `flat`, int64 [B, L], holds tokens in generation order; at a target and after it they have no meaning and must
        not be read. `tokens` are those that sampling starts from; streams that the prior reads are complete.
        """


class PreviousStepToken(InputFeature):
    """The token at the same location one step before, with its own embedding; zero at the first step."""

    source: Tensor  # int64 [L], the position of that token; 0 if none
    known: Tensor  # float [L, 1], 1 or 0

    def __init__(self, prior: Prior, width: int) -> None:
        super().__init__(prior, width)
        source = previous_positions(prior.order().numpy())
        self.register_buffer("source", torch.from_numpy(source.clip(0)), persistent=False)
        self.register_buffer("known", torch.from_numpy(source >= 0).float()[:, None], persistent=False)
        sizes = [vocabulary_size(stream) for stream, _ in prior.codebooks()]
        self.token_embedding = TokenEmbedding(sizes, prior.codebook_index(), width)

    def forward(self, flat: Tensor, tokens: Tokens, target: Tensor | slice) -> Tensor:
        indices = flat.gather(1, self.source[target].expand(len(flat), -1))
        x = self.token_embedding(indices, target)
        return x * self.known[target].to(x.dtype)


class LatestControls(InputFeature):
    """The last token before the target at each location of the frame-level control streams: the sum of their vectors,
    scaled by the number of locations.
    """

    source: Tensor  # int64 [S, L], for each of S locations the position of that token; 0 if none yet
    known: Tensor  # float [S, L, 1], 1 or 0

    def __init__(self, prior: Prior, width: int) -> None:
        super().__init__(prior, width)
        controls = [index for index, stream in enumerate(prior.spec.streams) if stream.role == "control"]
        source, streams = latest_positions(prior.order().numpy(), controls)
        self.register_buffer("source", torch.from_numpy(source.clip(0)), persistent=False)
        self.register_buffer("known", torch.from_numpy(source >= 0).float()[..., None], persistent=False)
        sizes = [vocabulary_size(prior.spec.streams[index]) for index in streams]
        self.token_embedding = TokenEmbedding(sizes, torch.arange(len(streams)), width)

    def forward(self, flat: Tensor, tokens: Tokens, target: Tensor | slice) -> Tensor:
        total = torch.zeros((), device=flat.device)
        for location, (source, known) in enumerate(zip(self.source, self.known, strict=True)):
            indices = flat.gather(1, source[target].expand(len(flat), -1))
            x = self.token_embedding(indices, torch.full((1, 1), location, device=flat.device))
            total = total + x * known[target].to(x.dtype)
        return total / len(self.source) ** 0.5


class EndFrameInput(InputFeature):
    """At tokens of the level, the end frame's token at the same location, weighted by the distance to the end, plus an
    embedding of that distance.

    Distances are in steps of the level, negative after the end. An end frame that is not given, or whose step is not,
    has a weight and an embedding of its own.
    """

    end_index: Tensor  # int64 [L], the end frame's token at the same location; 0 outside of the level
    step: Tensor  # int64 [L]
    in_level: Tensor  # float [L, 1], 1 or 0

    def __init__(self, prior: Prior, width: int) -> None:
        super().__init__(prior, width)
        (level,), self.end = prior.spec.levels, prior.spec.stream(END)
        stream, step, h, w, q = prior.order().numpy().T
        in_level = stream == prior.spec.streams.index(level)
        end_index = np.ravel_multi_index((h * in_level, w * in_level, q * in_level), self.end.shape[1:])
        self.register_buffer("end_index", torch.from_numpy(end_index), persistent=False)
        self.register_buffer("step", torch.from_numpy(step.copy()), persistent=False)
        self.register_buffer("in_level", torch.from_numpy(in_level).float()[:, None], persistent=False)
        codebook_index = torch.arange(self.end.positions, device="cpu") % self.end.codebooks
        self.token_embedding = TokenEmbedding([vocabulary_size(self.end)] * self.end.codebooks, codebook_index, width)
        self.max_distance = level.grid[0] - 1
        distances = torch.arange(-self.max_distance, self.max_distance + 1, device="cpu")
        self.distance_embedding = nn.Embedding(len(distances) + 1, width)  # the last row: no end frame
        weights = torch.cat([1 / (1 + distances.abs()), torch.ones(1, device="cpu")])
        self.distance_weight = nn.Parameter(weights)  # initially a distant end has little weight

    def forward(self, flat: Tensor, tokens: Tokens, target: Tensor | slice) -> Tensor:
        end, arrival = tokens[END].long().flatten(1), tokens[END_STEP].long().flatten(1)
        end_index = self.end_index[target].expand(len(end), -1)
        indices = end.gather(1, end_index)
        known = (indices < self.end.codebook_size) & (arrival <= self.max_distance)  # unconditional: one step more
        row = (arrival - self.step[target] + self.max_distance).where(known, len(self.distance_weight) - 1)
        x = self.token_embedding(indices, end_index) * self.distance_weight[row][..., None]
        x = x + self.distance_embedding(row)
        return x * self.in_level[target].to(x.dtype)


FEATURES: dict[str, type[InputFeature]] = {  # by the option of `GPTConfig`, in the order in which they are added
    "previous_step": PreviousStepToken,
    "latest_controls": LatestControls,
    "end_frame_input": EndFrameInput,
}
