"""What the two PixelCNN priors share: volumes of codes generated one after the other, each place by place.

The top prior has one volume, all steps to be predicted; the bottom prior one for each slice. A member says what
conditions a volume. It draws nothing: `priors/sampling/video.py` does.

B rows, P places of a volume, K codes, L = volumes * P positions of the order, C width of the condition.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.data.spec import StreamSpec, TokenSpec
from tokenreel.priors.layers.sliced import Clips, Part, SlicedPrior, SlicedState
from tokenreel.priors.pixelcnn.cached import CachedStack
from tokenreel.priors.pixelcnn.conditioning import Conditioning
from tokenreel.priors.pixelcnn.config import PixelCNNConfig
from tokenreel.priors.pixelcnn.masked import Shape
from tokenreel.priors.pixelcnn.stack import Stack
from tokenreel.priors.pixelcnn.streams import vocabulary


class PixelCNN(SlicedPrior):
    """p(code | codes before it, the streams read), raster order over the steps of a level that nobody gives.

    Codes that are given condition what is later. The first steps of the level, those that the given frames make, are
    never looked at and never predicted: they have seen later frames.
    """

    config: PixelCNNConfig

    def __init__(
        self, config: PixelCNNConfig, spec: TokenSpec, level: StreamSpec, reads: tuple[str, ...], given: int, steps: int
    ) -> None:
        """`level` is predicted, but for its first `given` steps; a slice is a volume of `steps`."""
        shape = (steps, *level.grid[1:])
        volumes = (level.grid[0] - given) // steps
        order = torch.from_numpy(_order(spec, level, given))
        super().__init__(config, spec, order, volumes, level.name, reads)
        self.shape: Shape = shape
        self.embedding = nn.Embedding(vocabulary(level), config.embedding)
        self.stack = Stack(config, shape)
        self.output = nn.Linear(config.hidden, level.codebook_size)

    @abstractmethod
    def condition(self, clips: Clips, index: Tensor) -> Tensor:
        """What is known of volume `index` [B] beside its own codes, [B, *shape, C]; of codes, those before it."""

    def slice_nats(self, clips: Clips, index: Tensor, generator: torch.Generator | None) -> Tensor:
        own = clips.indices[torch.arange(len(index), device=index.device), index]
        x = self.stack(self.embedding(own).unflatten(1, self.shape), self.condition(clips, index), generator)
        logits = self.output(x.flatten(1, 3)).float()
        target = own.clamp(max=self.codebook_size - 1)  # a null code, beyond the codebook, is always given
        return F.cross_entropy(logits.transpose(1, 2), target, reduction="none")

    def new_cache(self, rows: int) -> CachedStack:
        return CachedStack(self.stack, rows)

    def enter(self, cache: CachedStack, rows: Tensor, clips: Clips, index: Tensor) -> None:
        cache.enter(rows, self.condition(clips, index).flatten(1, 3))

    def compute(self, state: SlicedState, parts: list[Part], first: list[int]) -> None:
        columns, device = self.shape[2], state.flat.device
        count = max(part.last - at + 1 for part, at in zip(parts, first, strict=True))
        entries = [(part.row, part.slice, at) for part, at in zip(parts, first, strict=True)]
        rows, index, begin = torch.tensor(entries, device=device).T
        at = (begin[:, None] + torch.arange(count, device=device)).clamp(max=self.per_slice - 1)
        before = state.clips.indices[rows[:, None], index[:, None], (at - 1).clamp(min=0)]
        lines = [
            (part.row, line)
            for part, place in zip(parts, first, strict=True)
            for line in range(-(-place // columns), part.last // columns + 1)
        ]
        state.cache.extend(rows, at, self.embedding(before), torch.tensor(lines, device=device))

    def write_log_probs(self, state: SlicedState, parts: list[Part], log_probs: Tensor) -> None:
        entries = [(part.row, part.column + i, part.first + i) for part in parts for i in range(part.size)]
        row, column, place = torch.tensor(entries, device=log_probs.device).T
        log_probs[row, column] = self.output(state.cache.hidden[row, place]).float().log_softmax(-1)

    def reset_parameters(self) -> None:
        """Vectors of codes normal, outputs small, the stack and the conditioning as they say themselves."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
            elif isinstance(module, Stack | Conditioning):
                module.reset_parameters()
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)


def _order(spec: TokenSpec, level: StreamSpec, given: int) -> np.ndarray:
    """int64 [L, 5] as in `Prior.order`: raster order, without the first `given` steps."""
    predicted = np.indices((level.grid[0] - given, *level.grid[1:])).reshape(3, -1).T + np.array([given, 0, 0])
    order = np.pad(predicted, ((0, 0), (1, 1)))  # and codebook 0
    order[:, 0] = spec.streams.index(level)
    return order
