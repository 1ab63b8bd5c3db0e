"""The Video Transformer on tokens: LVT's prior (Rakhimov et al. 2020, arXiv 2006.10704, section 3.2).

A clip is generated slice by slice (`slices.py`), location by location, codebook by codebook. The encoder reads the
slices before, the decoder the slice so far; one output per codebook predicts.

B rows, P locations (t, h, w) of a slice, q codebooks, K codebook size, L = slices * P * q positions of the order, D
width.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.data.spec import TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Tokens
from tokenreel.priors.layers.sliced import ClipTokens, SlicedPrior, SlicedState, SliceSpan
from tokenreel.priors.subscale.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, TokenRanks
from tokenreel.priors.subscale.attention import Attention
from tokenreel.priors.subscale.cached import CachedDecoder
from tokenreel.priors.subscale.config import SubscaleTransformerConfig
from tokenreel.priors.subscale.decoder import Decoder
from tokenreel.priors.subscale.encoder import Encoder
from tokenreel.priors.subscale.inputs import CodebookEmbeddings
from tokenreel.priors.subscale.outputs import CodebookOutput, CodebookOutputs, TokenSoftmax
from tokenreel.priors.subscale.slices import Slices
from tokenreel.sample_random import SampleRandom


class SubscaleTransformer(SlicedPrior):
    """p(token | tokens before it in subscale order, all given tokens), for tokens of one level, without controls.

    Given tokens condition all others: the encoder reads them in all slices. In the published code it reads those of
    earlier slices only, which with spatial subscaling hides most of the first frame from the first slice.
    """

    config: SubscaleTransformerConfig
    config_class = SubscaleTransformerConfig

    def __init__(self, config: SubscaleTransformerConfig, spec: TokenSpec) -> None:
        stream, *others = spec.levels
        if others:
            names = [level.name for level in spec.levels]
            raise ConfigError(f"a subscale transformer predicts one level; these tokens have {names}")
        slices = Slices(stream.grid, config.subscale)
        order = torch.from_numpy(_order(slices, spec.streams.index(stream), stream.codebooks))
        super().__init__(config, spec, order, slices.count, stream.name)
        self.slices, self.per_location = slices, stream.codebooks
        adaptive = config.adaptive_input or config.adaptive_softmax
        ranks = [TokenRanks(stream.codebook_size) for _ in range(stream.codebooks)] if adaptive else []
        self.ranks = nn.ModuleList(ranks)
        self.encoder = Encoder(config, self.slices, stream.codebook_size, stream.codebooks)
        self.decoder = Decoder(config, self.slices)
        self.outputs = CodebookOutputs(config, stream.codebook_size, stream.codebooks, ranks)
        self.token_embedding = CodebookEmbeddings(config, stream.codebook_size, self.outputs, ranks)
        self.reset_parameters()

    def prepare(self, clips: Iterable[Tokens]) -> None:
        """Ranks the tokens of each codebook by frequency, if it has adaptive layers."""
        if not len(self.ranks):
            return
        counts = torch.zeros(self.per_location, self.codebook_size, dtype=torch.long)
        for tokens in clips:
            indices = tokens[self.predicts[0]].cpu().flatten(0, 3)
            counts += torch.stack([column.bincount(minlength=self.codebook_size) for column in indices.T])
        for ranks, count in zip(self.ranks, counts, strict=True):
            ranks.fit(count.to(self.device))  # type: ignore[operator]

    def slice_nats(self, clips: ClipTokens, index: Tensor, random: SampleRandom | None) -> Tensor:
        own = self._by_location(clips.indices[torch.arange(len(index), device=index.device), index])
        return self.outputs.nats(self.decoder(self.token_embedding(own), self._encode(clips, index)), own).flatten(1)

    def _encode(self, clips: ClipTokens, index: Tensor) -> Tensor:
        """The encoder's output [B, P, D] for slice `index` [B], from the slices before it and all given tokens."""
        earlier = torch.arange(self.slices.count, device=index.device) < index[:, None]
        visible = clips.given | earlier[..., None]
        return self.encoder(self._by_location(clips.indices), self._by_location(visible), index)

    def _by_location(self, indices: Tensor) -> Tensor:
        """[..., P * q] -> [..., P, q]"""
        return indices.unflatten(-1, (self.slices.locations, self.per_location))

    def new_cache(self, rows: int) -> CachedDecoder:
        return CachedDecoder(self.decoder, rows)

    def begin_slice(self, cache: CachedDecoder, rows: Tensor, clips: ClipTokens, index: Tensor) -> None:
        cache.begin_slice(rows, self._encode(clips, index))

    def compute(self, state: SlicedState, spans: list[SliceSpan], first: list[int]) -> None:
        """A location is computed together with its first codebook's token."""
        start = [-(-position // self.per_location) for position in first]
        count = max(span.last // self.per_location - at + 1 for span, at in zip(spans, start, strict=True))
        if count < 1:
            return
        entries = [(span.row, span.slice, at) for span, at in zip(spans, start, strict=True)]
        rows, index, begin = torch.tensor(entries, device=state.flat.device).T
        at = (begin[:, None] + torch.arange(count, device=rows.device)).clamp(max=self.slices.locations - 1)
        before = self._by_location(state.clips.indices)[rows[:, None], index[:, None], (at - 1).clamp(min=0)]
        state.cache.extend(rows, at, self.token_embedding(before))

    def write_log_probs(self, state: SlicedState, spans: list[SliceSpan], log_probs: Tensor) -> None:
        """Codebook by codebook, as each has its own weights."""
        by_codebook: dict[int, list[tuple[int, int, int, int]]] = {}
        for span in spans:
            for i in range(span.size):
                location, q = divmod(span.first + i, self.per_location)
                by_codebook.setdefault(q, []).append((span.row, span.column + i, span.slice, location))
        indices = self._by_location(state.clips.indices)
        for q, entries in by_codebook.items():
            row, column, index, location = torch.tensor(entries, device=log_probs.device).T
            earlier = indices[row, index, location, :q]
            log_probs[row, column] = self.outputs.log_probs(state.cache.hidden[row, location], earlier)

    def reset_parameters(self) -> None:
        """Xavier uniform weights and normal embeddings, as in the published code, but for two fans.

        The fan-in of one-hot tokens counts the ones only: otherwise they are tiny compared to the slice embedding.
        Queries, keys and values count separately: otherwise the scale of the values depends on the kind of attention.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
        nn.init.normal_(self.encoder.slice.weight, std=0.1)
        _xavier(self.encoder.table.weight, self.encoder.offset.numel(), self.config.embedding)
        taps, width, embedding = self.decoder.convolution.weight.shape
        _xavier(self.decoder.convolution.weight, taps * embedding, taps * width)
        for module in self.modules():
            if isinstance(module, Attention):
                _xavier(module.project.weight, width, module.heads * module.head_width)
                if module.learned_query is not None:
                    nn.init.normal_(module.learned_query)
            elif isinstance(module, CodebookOutput) and module.earlier is not None:
                _xavier(module.earlier.weight, width, width)
            elif isinstance(module, AdaptiveSoftmax | AdaptiveEmbedding | TokenSoftmax):
                module.reset_parameters()  # their weights may be tied to the input, so they have its scale


def _order(slices: Slices, stream: int, codebooks: int) -> np.ndarray:
    """int64 [L, 5] as in `Prior.order`: subscale order, at each location codebook by codebook."""
    coordinates = slices.coordinates().reshape(-1, 3).repeat(codebooks, 0)
    q = np.tile(np.arange(codebooks), len(coordinates) // codebooks)
    return np.column_stack([np.full(len(q), stream), coordinates, q])


def _xavier(weight: Tensor, fan_in: int, fan_out: int) -> None:
    """Uniform initialisation of Glorot & Bengio (2010), for a weight whose shape does not show its fans."""
    bound = (6 / (fan_in + fan_out)) ** 0.5
    nn.init.uniform_(weight, -bound, bound)
