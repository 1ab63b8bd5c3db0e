"""Base class of the two PixelCNN priors: volumes of tokens generated one after the other, location by location.

The top prior has one volume, all steps to be predicted; the bottom prior one per step. A subclass says what conditions
a volume.

B rows, P locations of a volume, K codebook size, L = volumes * P positions of the order, C width of the condition.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.data.spec import StreamSpec, TokenSpec
from tokenreel.priors.base import vocabulary_size
from tokenreel.priors.layers.positions import raster_coordinates
from tokenreel.priors.layers.sliced import ClipTokens, SlicedPrior, SlicedState, SliceSpan
from tokenreel.priors.pixelcnn.cached import CachedStack
from tokenreel.priors.pixelcnn.conditioning import Conditioning
from tokenreel.priors.pixelcnn.config import PixelCNNConfig
from tokenreel.priors.pixelcnn.masked import Shape
from tokenreel.priors.pixelcnn.stack import Stack
from tokenreel.sample_random import SampleRandom


class PixelCNN(SlicedPrior):
    """p(token | tokens before it, the streams read), in raster order over the steps of a level that are not given.

    Given tokens condition later ones. The first steps of the level, those of the given frames, are neither read nor
    predicted: their tokens depend on later frames.
    """

    half_precision: ClassVar[bool] = False
    config: PixelCNNConfig

    def __init__(
        self, config: PixelCNNConfig, spec: TokenSpec, level: StreamSpec, reads: tuple[str, ...], given: int, steps: int
    ) -> None:
        """`level` is predicted, except for its first `given` steps; a slice is a volume of `steps`."""
        shape = (steps, *level.grid[1:])
        volumes = (level.grid[0] - given) // steps
        order = torch.from_numpy(_order(spec, level, given))
        super().__init__(config, spec, order, volumes, level.name, reads)
        self.shape: Shape = shape
        self.token_embedding = nn.Embedding(vocabulary_size(level), config.embedding)
        self.stack = Stack(config, shape)
        self.output = nn.Linear(config.hidden, level.codebook_size)

    @abstractmethod
    def condition(self, clips: ClipTokens, index: Tensor) -> Tensor:
        """What conditions volume `index` [B] besides its own tokens, [B, *shape, C]; it may use earlier volumes."""

    def slice_nats(self, clips: ClipTokens, index: Tensor, random: SampleRandom | None) -> Tensor:
        own = clips.indices[torch.arange(len(index), device=index.device), index]
        x = self.stack(self.token_embedding(own).unflatten(1, self.shape), self.condition(clips, index), random)
        logits = self.output(x.flatten(1, 3)).float()
        target = own.clamp(max=self.codebook_size - 1)  # an unconditional token, beyond the codebook, is always given
        return F.cross_entropy(logits.transpose(1, 2), target, reduction="none")

    def new_cache(self, rows: int) -> CachedStack:
        return CachedStack(self.stack, rows)

    def begin_slice(self, cache: CachedStack, rows: Tensor, clips: ClipTokens, index: Tensor) -> None:
        cache.begin_volume(rows, self.condition(clips, index).flatten(1, 3))

    def compute(self, state: SlicedState, spans: list[SliceSpan], first: list[int]) -> None:
        columns, device = self.shape[2], state.flat.device
        count = max(span.last - at + 1 for span, at in zip(spans, first, strict=True))
        entries = [(span.row, span.slice, at) for span, at in zip(spans, first, strict=True)]
        rows, index, begin = torch.tensor(entries, device=device).T
        at = (begin[:, None] + torch.arange(count, device=device)).clamp(max=self.slice_length - 1)
        before = state.clips.indices[rows[:, None], index[:, None], (at - 1).clamp(min=0)]
        scanlines = [
            (span.row, scanline)
            for span, start in zip(spans, first, strict=True)
            for scanline in range(-(-start // columns), span.last // columns + 1)
        ]
        state.cache.extend(rows, at, self.token_embedding(before), torch.tensor(scanlines, device=device))

    def write_log_probs(self, state: SlicedState, spans: list[SliceSpan], log_probs: Tensor) -> None:
        entries = [(span.row, span.column + i, span.first + i) for span in spans for i in range(span.size)]
        row, column, location = torch.tensor(entries, device=log_probs.device).T
        log_probs[row, column] = self.output(state.cache.hidden[row, location]).float().log_softmax(-1)

    def reset_parameters(self) -> None:
        """Normal embeddings, a small output layer; the stack and the conditioning initialise themselves."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
            elif isinstance(module, Stack | Conditioning):
                module.reset_parameters()
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)


def _order(spec: TokenSpec, level: StreamSpec, given: int) -> np.ndarray:
    """int64 [L, 5] as in `Prior.order`: raster order, without the first `given` steps."""
    t, h, w = level.grid
    predicted = raster_coordinates((t - given, h, w)) + np.array([given, 0, 0])
    order = np.pad(predicted, ((0, 0), (1, 1)))  # and codebook 0
    order[:, 0] = spec.streams.index(level)
    return order
