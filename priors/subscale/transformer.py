"""The Video Transformer on codes: LVT's prior (Rakhimov et al. 2020, arXiv 2006.10704, section 3.2).

A clip is generated slice by slice (`slices.py`), place by place, codebook by codebook. An encoder reads what exists
before a slice, a decoder the slice so far, and one output for each codebook predicts. It knows no pixels and draws
nothing: `priors/sampling.py` does.

B rows, P places of a slice, q codebooks, K codes, L = slices * P * q positions of the order, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.data.spec import TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior, State, Tokens
from tokenreel.priors.subscale.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, CodeRanks
from tokenreel.priors.subscale.attention import Attention
from tokenreel.priors.subscale.cached import CachedDecoder
from tokenreel.priors.subscale.config import SubscaleTransformerConfig
from tokenreel.priors.subscale.decoder import Decoder
from tokenreel.priors.subscale.encoder import Encoder
from tokenreel.priors.subscale.inputs import CodeVectors
from tokenreel.priors.subscale.outputs import CodebookOutput, CodebookOutputs, CodeSoftmax
from tokenreel.priors.subscale.slices import Slices
from tokenreel.priors.subscale.targets import Part, parts_by_slice

_NOWHERE = -1  # the slice of a row whose caches hold none


@dataclass
class SubscaleState(State):
    """What a row's codes are, and what the decoder holds of the slice that it is in."""

    codes: Tensor  # int64 [B, L + 1], given or fed; the last column takes what must not be kept
    given: Tensor  # bool [B, slices, P, q]
    slice: list[int]  # of each row, the one that `decoder` holds
    decoder: CachedDecoder


class SubscaleTransformer(Prior):
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
        super().__init__(config, spec, predicts=(stream.name,))
        self.slices = Slices(stream.grid, config.subscale)
        self.codebooks, self.codes = stream.codebooks, stream.codes
        self._per_slice = self.slices.places * stream.codebooks  # codes
        self._order = torch.from_numpy(_order(self.slices, spec.streams.index(stream), stream.codebooks))
        adaptive = config.adaptive_input or config.adaptive_softmax
        ranks = [CodeRanks(stream.codes) for _ in range(stream.codebooks)] if adaptive else []
        self.ranks = nn.ModuleList(ranks)
        self.encoder = Encoder(config, self.slices, stream.codes, stream.codebooks)
        self.decoder = Decoder(config, self.slices)
        self.outputs = CodebookOutputs(config, stream.codes, stream.codebooks, ranks)
        self.vectors = CodeVectors(config, stream.codes, self.outputs, ranks)
        self.reset_parameters()

    def order(self) -> Tensor:
        return self._order

    def prepare(self, clips: Iterable[Tokens]) -> None:
        """Ranks the codes of each codebook by frequency, where adaptive layers want it."""
        if not len(self.ranks):
            return
        counts = torch.zeros(self.codebooks, self.codes, dtype=torch.long)
        for tokens in clips:
            codes = tokens[self.predicts[0]].cpu().flatten(0, 3)
            counts += torch.stack([codes[:, k].bincount(minlength=self.codes) for k in range(self.codebooks)])
        for ranks, count in zip(self.ranks, counts, strict=True):
            ranks.fit(count.to(self.device))  # type: ignore[operator]

    def log_prob(self, tokens: Tokens, given: Tensor) -> Tensor:
        flat, seen = self._by_slice(self.flatten(tokens)), self._by_slice(given)
        nats = torch.zeros(flat.shape, device=flat.device)
        for index in range(self.slices.count):
            if not seen[:, index].all():
                nats[:, index] = self._nats(flat, seen, torch.full_like(flat[:, 0, 0, 0], index))
        return -nats.flatten(1).masked_fill(given, 0)

    def loss(self, tokens: Tokens, given: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Of each clip one slice is drawn among those that hold a code to be predicted, as the public code does."""
        flat, seen = self._by_slice(self.flatten(tokens)), self._by_slice(given)
        free = (~seen).flatten(2).any(2)  # [B, slices]
        lots = torch.rand(free.shape, generator=generator, device=free.device)
        index = lots.masked_fill(~free, -1).argmax(1)
        unseen = ~seen[torch.arange(len(index), device=index.device), index]
        nats = (self._nats(flat, seen, index) * unseen).flatten(1).sum(1)
        return (nats * free.sum(1)).sum() / (~given).sum()  # each drawn slice stands for all of its clip's

    def _nats(self, codes: Tensor, given: Tensor, index: Tensor) -> Tensor:
        """Minus log-probabilities [B, P, q] in slice `index` [B] of codes, given or not, [B, slices, P, q]."""
        encoded = self._encode(codes, given, index)
        own = codes[torch.arange(len(codes), device=codes.device), index]
        return self.outputs.nats(self.decoder(self.vectors(own), encoded), own)

    def _encode(self, codes: Tensor, given: Tensor, index: Tensor) -> Tensor:
        """What the encoder says of slice `index` [B], [B, P, D], from the slices before it and all that is given."""
        earlier = torch.arange(self.slices.count, device=index.device) < index[:, None]
        return self.encoder(codes, given | earlier[:, :, None, None], index)

    def _by_slice(self, flat: Tensor) -> Tensor:
        """[B, L] in generation order -> [B, slices, P, q]"""
        return flat.unflatten(1, (self.slices.count, self.slices.places, self.codebooks))

    @torch.no_grad()
    def start(self, tokens: Tokens, given: Tensor) -> SubscaleState:
        rows, length = given.shape
        position = torch.where(given.all(1), length, (~given).int().argmax(1))
        codes = nn.functional.pad(self.flatten(tokens).masked_fill(~given, 0), (0, 1))
        cache = CachedDecoder(self.decoder, rows)
        empty = torch.full((rows, self.codes), -torch.inf, device=codes.device)
        state = SubscaleState(position, empty, codes, self._by_slice(given.clone()), [_NOWHERE] * rows, cache)
        first = position.tolist()
        state.log_probs = self._predict(state, first, [int(at < length) for at in first])[:, 0]
        return state

    @torch.no_grad()
    def step(self, state: State, codes: Tensor, count: Tensor) -> Tensor:
        assert isinstance(state, SubscaleState)
        length = len(self._order)
        line = torch.arange(codes.shape[1], device=codes.device)
        at = (state.position[:, None] + line).where(line < count[:, None], length)
        state.codes.scatter_(1, at, codes)
        first = (state.position + 1).tolist()
        state.position = state.position + count
        counts = [min(n, length - at) for n, at in zip(count.tolist(), first, strict=True)]
        return self._predict(state, first, counts, codes.shape[1])

    def rewind(self, state: State, position: Tensor) -> None:
        """A row that goes back behind the start of its slice fills its caches again when it needs them."""
        assert isinstance(state, SubscaleState)
        for row, at in enumerate(position.tolist()):
            if at // self._per_slice < state.slice[row]:
                state.slice[row] = _NOWHERE
        state.position = position

    def _predict(self, state: SubscaleState, first: list[int], counts: list[int], width: int = 1) -> Tensor:
        """Log-probabilities [B, width, K] of `counts` positions of each row from `first` on; elsewhere zero."""
        log_probs = torch.zeros(len(first), width, self.codes, device=state.codes.device)
        for parts in parts_by_slice(first, counts, self._per_slice):
            entering = [part for part in parts if state.slice[part.row] != part.slice]
            staying = [part for part in parts if state.slice[part.row] == part.slice]
            if entering:
                self._enter(state, entering)
                self._compute_places(state, entering, [0] * len(entering))
            if staying:
                self._compute_places(state, staying, [-(-part.first // self.codebooks) for part in staying])
            self._predict_codes(state, parts, log_probs)
        return log_probs

    def _enter(self, state: SubscaleState, parts: list[Part]) -> None:
        """Encodes the slice of each part for its row."""
        device = state.codes.device
        rows = torch.tensor([part.row for part in parts], device=device)
        index = torch.tensor([part.slice for part in parts], device=device)
        codes = self._by_slice(state.codes[rows, :-1])
        state.decoder.enter(rows, self._encode(codes, state.given[rows], index))
        for part in parts:
            state.slice[part.row] = part.slice

    def _compute_places(self, state: SubscaleState, parts: list[Part], first: list[int]) -> None:
        """Computes, from the places `first` on, all that the positions of the parts need; rows that need fewer take
        others along, which count for nothing until they are reached.
        """
        count = max((part.last // self.codebooks) - place + 1 for part, place in zip(parts, first, strict=True))
        if count < 1:
            return
        table = torch.tensor(
            [(p.row, p.slice, at) for p, at in zip(parts, first, strict=True)], device=state.codes.device
        )
        rows, index, begin = table.T
        places = (begin[:, None] + torch.arange(count, device=rows.device)).clamp(max=self.slices.places - 1)
        before = (index[:, None] * self.slices.places + places - 1).clamp(min=0) * self.codebooks
        books = torch.arange(self.codebooks, device=rows.device)
        codes = state.codes[rows[:, None, None], before[..., None] + books]
        state.decoder.extend(rows, places, self.vectors(codes))

    def _predict_codes(self, state: SubscaleState, parts: list[Part], log_probs: Tensor) -> None:
        """Writes the log-probabilities of the positions of the parts, codebook by codebook."""
        by_book: dict[int, list[tuple[int, int, int, int]]] = {}
        for part in parts:
            for i in range(part.size):
                place, book = divmod(part.first + i, self.codebooks)
                begin = part.slice * self._per_slice + place * self.codebooks
                by_book.setdefault(book, []).append((part.row, part.column + i, place, begin))
        for book, entries in by_book.items():
            row, column, place, begin = torch.tensor(entries, device=log_probs.device).T
            earlier = state.codes[row[:, None], begin[:, None] + torch.arange(book, device=row.device)]
            log_probs[row, column] = self.outputs.log_probs(state.decoder.hidden[row, place], earlier)

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
