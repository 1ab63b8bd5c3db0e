"""The Video Transformer on codes: LVT's prior (Rakhimov et al. 2020, arXiv 2006.10704, section 3.2).

A clip is generated slice by slice (`slices.py`), place by place, codebook by codebook. An encoder reads what exists
before a slice, a decoder the slice so far, and one output for each codebook predicts. It knows no pixels and draws
nothing: `priors/sampling/video.py` does.

B rows, P places of a slice, q codebooks, K codes, L = slices * P * q positions of the order, D width.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.data.spec import TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Tokens
from tokenreel.priors.layers.sliced import Clips, Part, SlicedPrior, SlicedState
from tokenreel.priors.subscale.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, CodeRanks
from tokenreel.priors.subscale.attention import Attention
from tokenreel.priors.subscale.cached import CachedDecoder
from tokenreel.priors.subscale.config import SubscaleTransformerConfig
from tokenreel.priors.subscale.decoder import Decoder
from tokenreel.priors.subscale.encoder import Encoder
from tokenreel.priors.subscale.inputs import CodeVectors
from tokenreel.priors.subscale.outputs import CodebookOutput, CodebookOutputs, CodeSoftmax
from tokenreel.priors.subscale.slices import Slices


class SubscaleTransformer(SlicedPrior):
    """p(code | codes before it in subscale order, every given code), for the one level of codes; it reads no tracks.

    Given codes condition everything, wherever they lie: the encoder sees them in all slices. The public code shows it
    those of earlier slices only: with spatial subscaling most of the first frame is then hidden from the first slice.
    """

    config: SubscaleTransformerConfig
    config_class = SubscaleTransformerConfig

    def __init__(self, config: SubscaleTransformerConfig, spec: TokenSpec) -> None:
        stream, *others = spec.levels
        if others:
            names = [level.name for level in spec.levels]
            raise ConfigError(f"a subscale transformer predicts one level of codes; these tokens have {names}")
        slices = Slices(stream.grid, config.subscale)
        order = torch.from_numpy(_order(slices, spec.streams.index(stream), stream.codebooks))
        super().__init__(config, spec, order, slices.count, stream.name)
        self.slices, self.codebooks = slices, stream.codebooks
        adaptive = config.adaptive_input or config.adaptive_softmax
        ranks = [CodeRanks(stream.codebook_size) for _ in range(stream.codebooks)] if adaptive else []
        self.ranks = nn.ModuleList(ranks)
        self.encoder = Encoder(config, self.slices, stream.codebook_size, stream.codebooks)
        self.decoder = Decoder(config, self.slices)
        self.outputs = CodebookOutputs(config, stream.codebook_size, stream.codebooks, ranks)
        self.vectors = CodeVectors(config, stream.codebook_size, self.outputs, ranks)
        self.reset_parameters()

    def prepare(self, clips: Iterable[Tokens]) -> None:
        """Ranks the codes of each codebook by frequency, where adaptive layers want it."""
        if not len(self.ranks):
            return
        counts = torch.zeros(self.codebooks, self.codebook_size, dtype=torch.long)
        for tokens in clips:
            indices = tokens[self.predicts[0]].cpu().flatten(0, 3)
            counts += torch.stack([indices[:, k].bincount(minlength=self.codebook_size) for k in range(self.codebooks)])
        for ranks, count in zip(self.ranks, counts, strict=True):
            ranks.fit(count.to(self.device))  # type: ignore[operator]

    def slice_nats(self, clips: Clips, index: Tensor, generator: torch.Generator | None) -> Tensor:
        own = self._by_place(clips.indices[torch.arange(len(index), device=index.device), index])
        return self.outputs.nats(self.decoder(self.vectors(own), self._encode(clips, index)), own).flatten(1)

    def _encode(self, clips: Clips, index: Tensor) -> Tensor:
        """What the encoder says of slice `index` [B], [B, P, D], from the slices before it and all that is given."""
        earlier = torch.arange(self.slices.count, device=index.device) < index[:, None]
        seen = clips.given | earlier[..., None]
        return self.encoder(self._by_place(clips.indices), self._by_place(seen), index)

    def _by_place(self, indices: Tensor) -> Tensor:
        """[..., P * q] -> [..., P, q]"""
        return indices.unflatten(-1, (self.slices.places, self.codebooks))

    def new_cache(self, rows: int) -> CachedDecoder:
        return CachedDecoder(self.decoder, rows)

    def enter(self, cache: CachedDecoder, rows: Tensor, clips: Clips, index: Tensor) -> None:
        cache.enter(rows, self._encode(clips, index))

    def compute(self, state: SlicedState, parts: list[Part], first: list[int]) -> None:
        """A place is computed for its first codebook."""
        begin = [-(-position // self.codebooks) for position in first]
        count = max(part.last // self.codebooks - place + 1 for part, place in zip(parts, begin, strict=True))
        if count < 1:
            return
        entries = [(part.row, part.slice, place) for part, place in zip(parts, begin, strict=True)]
        rows, index, place = torch.tensor(entries, device=state.flat.device).T
        places = (place[:, None] + torch.arange(count, device=rows.device)).clamp(max=self.slices.places - 1)
        before = self._by_place(state.clips.indices)[rows[:, None], index[:, None], (places - 1).clamp(min=0)]
        state.cache.extend(rows, places, self.vectors(before))

    def write_log_probs(self, state: SlicedState, parts: list[Part], log_probs: Tensor) -> None:
        """Codebook by codebook, for each has weights of its own."""
        by_book: dict[int, list[tuple[int, int, int, int]]] = {}
        for part in parts:
            for i in range(part.size):
                place, book = divmod(part.first + i, self.codebooks)
                by_book.setdefault(book, []).append((part.row, part.column + i, part.slice, place))
        indices = self._by_place(state.clips.indices)
        for book, entries in by_book.items():
            row, column, index, place = torch.tensor(entries, device=log_probs.device).T
            earlier = indices[row, index, place, :book]
            log_probs[row, column] = self.outputs.log_probs(state.cache.hidden[row, place], earlier)

    def reset_parameters(self) -> None:
        """Xavier's uniform weights and normal vectors, as in the public code, with other fans in two places.

        Where codes come in as ones among zeros only the ones count: else they are hardly heard beside the slice vector.
        Queries, keys and values count one by one: else the size of the values depends on the kind of attention.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
        nn.init.normal_(self.encoder.slice.weight, std=0.1)
        _xavier(self.encoder.table.weight, self.encoder.first.numel(), self.config.embedding)
        taps, width, embedding = self.decoder.convolution.weight.shape
        _xavier(self.decoder.convolution.weight, taps * embedding, taps * width)
        for module in self.modules():
            if isinstance(module, Attention):
                _xavier(module.project.weight, width, module.heads * module.head_width)
                if module.asked is not None:
                    nn.init.normal_(module.asked)
            elif isinstance(module, CodebookOutput) and module.earlier is not None:
                _xavier(module.earlier.weight, width, width)
            elif isinstance(module, AdaptiveSoftmax | AdaptiveEmbedding | CodeSoftmax):
                module.reset_parameters()  # their vectors may be tied, so their scale is that of an input


def _order(slices: Slices, stream: int, codebooks: int) -> np.ndarray:
    """int64 [L, 5] as in `Prior.order`: subscale order, and the codebooks of a place one after the other."""
    coordinates = slices.coordinates().reshape(-1, 3).repeat(codebooks, 0)
    books = np.tile(np.arange(codebooks), len(coordinates) // codebooks)
    return np.column_stack([np.full(len(books), stream), coordinates, books])


def _xavier(weight: Tensor, fan_in: int, fan_out: int) -> None:
    """Uniform as Glorot & Bengio (2010) have it, for a weight whose shape does not show its fans."""
    bound = (6 / (fan_in + fan_out)) ** 0.5
    nn.init.uniform_(weight, -bound, bound)
