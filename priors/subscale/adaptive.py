"""Adaptive input and adaptive softmax for one codebook: frequent codes get wide vectors, rare codes narrow ones.

LVT's appendix A, after Grave et al. 2017 (arXiv 1609.04309) for the softmax and Baevski & Auli 2019 (arXiv 1809.10853)
for the input and for tying the two. Knows one codebook, and no positions, streams or batches.

Codes are sorted by falling frequency; the cutoffs split the ranks into a head and tail clusters. CodeRanks is shared by
input and softmax and registered by neither: who holds them registers it once, or it does not reach the checkpoint.

N vectors, K codes of the codebook, D width of the vectors of the head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from tokenreel.errors import ConfigError, DataError


@dataclass(frozen=True)
class Clusters:
    """How the codes of a codebook are split by rank, and how wide the vectors of each cluster are."""

    codebook_size: int  # K
    cutoffs: tuple[int, ...]  # ranks where a tail cluster starts: rising, from 1 to K - 1; the first is the head's size
    width: int  # D, of the head's vectors
    factor: float = 4.0  # tail cluster i = 1, 2, ... has vectors of width D // factor^i

    def __post_init__(self) -> None:
        """Raises ConfigError where a cluster would have no codes or vectors of no width."""
        if not self.cutoffs or any(size < 1 for size in self.sizes):
            raise ConfigError(
                f"cutoffs (={list(self.cutoffs)}) must be one or more rising ranks, each from 1 to "
                f"{self.codebook_size - 1}, for a codebook of {self.codebook_size} codes"
            )
        if not self.factor >= 1 or not all(self.widths):
            raise ConfigError(
                f"factor (={self.factor}) must be at least 1 and leave the last of {len(self.cutoffs)} tail clusters a "
                f"width of {self.width} // factor^{len(self.cutoffs)} of at least 1: use fewer cutoffs or wider vectors"
            )

    @property
    def sizes(self) -> list[int]:
        """The number of codes of each cluster, the head first."""
        return [end - start for start, end in pairwise((0, *self.cutoffs, self.codebook_size))]

    @property
    def widths(self) -> list[int]:
        """The width of the vectors of each cluster, the head first."""
        return [int(self.width // self.factor**i) for i in range(len(self.cutoffs) + 1)]


class CodeRanks(nn.Module):
    """The rank of each of K codes by falling frequency: its own number until `fit`. Part of the checkpoint."""

    rank_of: Tensor  # int64 [K], the rank of each code
    code_at: Tensor  # int64 [K], the code of each rank

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        self.register_buffer("rank_of", torch.arange(codebook_size))
        self.register_buffer("code_at", torch.arange(codebook_size))

    def fit(self, counts: Tensor) -> None:
        """Ranks the codes by their `counts` [K]; equally frequent ones in the order of the codes.

        To be called before training: weights belong to ranks, so other ranks give trained weights to other codes.
        Raises DataError where the counts are not K.
        """
        if counts.shape != self.rank_of.shape:
            raise DataError(f"counts of shape {list(counts.shape)} do not rank a codebook of {len(self.rank_of)} codes")
        self.code_at.copy_(counts.argsort(descending=True, stable=True))
        self.rank_of.copy_(self.code_at.argsort())


class AdaptiveSoftmax(nn.Module):
    """Vectors -> probabilities of codes: first of the head's codes and the tail clusters, then within a cluster.

    Everything is computed in float32, whatever autocast or the weights say: torch's module fails under a CPU's
    autocast, and its log-softmax of bfloat16 weights has three digits.
    """

    _shared: tuple[CodeRanks]  # a tuple, so that nn.Module does not register what is inside

    def __init__(self, clusters: Clusters, ranks: CodeRanks) -> None:
        super().__init__()
        self.clusters = clusters
        self._shared = (ranks,)
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(
            clusters.width, clusters.codebook_size, clusters.cutoffs, div_value=clusters.factor
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As fairseq starts its adaptive input, to which it ties the softmax: see `AdaptiveEmbedding`."""
        _reset([self.softmax.head.weight, *self.vectors()[1:]], self.projections())

    @property
    def ranks(self) -> CodeRanks:
        """The ranks that it was built with."""
        return self._shared[0]

    def vectors(self) -> list[Tensor]:
        """The vectors of the codes of each cluster, by rank [size, width]; the head's without its tail clusters."""
        return [self.softmax.head.weight[: self.clusters.sizes[0]], *(out.weight for _, out in self._tail())]

    def projections(self) -> list[Tensor]:
        """Of each tail cluster, [width, D]: hidden vectors to the width of the cluster."""
        return [down.weight for down, _ in self._tail()]

    def nats(self, hidden: Tensor, indices: Tensor) -> Tensor:
        """Minus log-probability [N], float32, of `indices` [N] after `hidden` [N, D].

        Computes a tail cluster only for the codes that lie in it, and waits for the device to learn which they are.
        """
        targets = self.ranks.rank_of.index_select(0, indices)  # unlike indexing, refuses negative codes
        weights = {name: weight.float() for name, weight in self.softmax.named_parameters()}
        with torch.autocast(hidden.device.type, enabled=False):
            return -functional_call(self.softmax, weights, (hidden.float(), targets)).output

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Log-probabilities [N, K], float32, of every code after `hidden` [N, D]."""
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            head = F.linear(hidden, self.softmax.head.weight.float()).log_softmax(-1)
            indices, *clusters = head.split([self.clusters.sizes[0]] + [1] * len(self._tail()), -1)
            inside = [
                F.linear(F.linear(hidden, down.float()), vectors.float()).log_softmax(-1)
                for down, vectors in zip(self.projections(), self.vectors()[1:], strict=True)
            ]
            tails = [cluster + code for cluster, code in zip(clusters, inside, strict=True)]
            return torch.cat([indices, *tails], -1)[:, self.ranks.rank_of]

    def _tail(self) -> list[tuple[nn.Linear, nn.Linear]]:
        return [cast(tuple[nn.Linear, nn.Linear], tuple(layers.children())) for layers in self.softmax.tail]


class AdaptiveEmbedding(nn.Module):
    """Codes -> vectors: those of the head as they are, those of a tail cluster projected to the head's width.

    Unlike fairseq, which projects the head as well: without that, the head can be tied to torch's softmax. It takes its
    vectors from `tied_to` if given, the projections too if `share_projections`, and owns and registers only the
    rest. The holder of both registers the softmax; a copy of the holder ties the copies.

    Raises ConfigError where `tied_to` has other clusters, or projections are shared with nothing.
    """

    _shared: tuple[CodeRanks, AdaptiveSoftmax | None]  # a tuple, so that nn.Module does not register what is inside

    def __init__(
        self,
        clusters: Clusters,
        ranks: CodeRanks,
        tied_to: AdaptiveSoftmax | None = None,
        share_projections: bool = False,
    ) -> None:
        super().__init__()
        _check_tie(clusters, ranks, tied_to, share_projections)
        self._shared = (ranks, tied_to)
        shapes = list(zip(clusters.sizes, clusters.widths, strict=True))
        vectors = [] if tied_to else [torch.empty(shape) for shape in shapes]
        projections = [] if share_projections else [torch.empty(clusters.width, width) for _, width in shapes[1:]]
        self.own_vectors = nn.ParameterList(vectors)
        self.own_projections = nn.ParameterList(projections)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As fairseq's adaptive input: vectors normal, deviation width^-0.5 by cluster; projections Xavier uniform.

        Only what it owns: tied weights start as the softmax says.
        """
        _reset(list(self.own_vectors), list(self.own_projections))

    def forward(self, indices: Tensor) -> Tensor:
        """codes [...] -> vectors [..., D]."""
        return F.embedding(indices, self.table())

    def table(self) -> Tensor:
        """The vectors of all codes, [K, D]: small next to a batch, and free of the waits that masks would cost.

        Who samples can make it once for all codes to come.
        """
        ranks, tied_to = self._shared
        vectors = tied_to.vectors() if tied_to else list(self.own_vectors)
        shared = [down.T for down in tied_to.projections()] if tied_to else []
        projections = list(self.own_projections) or shared  # [D, width]
        tails = [F.linear(*pair) for pair in zip(vectors[1:], projections, strict=True)]
        return torch.cat([vectors[0], *tails])[ranks.rank_of]


def _check_tie(clusters: Clusters, ranks: CodeRanks, tied_to: AdaptiveSoftmax | None, share_projections: bool) -> None:
    if tied_to is None:
        if share_projections:
            raise ConfigError("share_projections (=True) needs tied_to, the softmax whose projections they are")
        return
    if tied_to.clusters != clusters:
        raise ConfigError(
            f"tied embeddings need the same clusters; the input has {clusters}, the softmax {tied_to.clusters}"
        )
    assert tied_to.ranks is ranks, "a tied input and its softmax rank codes by one CodeRanks"


def _reset(vectors: list[Tensor], projections: list[Tensor]) -> None:
    for weight in vectors:
        nn.init.normal_(weight, std=1 / math.sqrt(weight.shape[1]))
    for weight in projections:
        nn.init.xavier_uniform_(weight)
