"""Adaptive input and adaptive softmax for one codebook: frequent tokens have wide vectors, rare tokens narrow ones.

LVT's appendix A, after Grave et al. 2017 (arXiv 1609.04309) for the softmax and Baevski & Auli 2019 (arXiv 1809.10853)
for the input and for tying the two.

Tokens are sorted by decreasing frequency; the cutoffs split the ranks into a head and tail clusters. Input and softmax
share a `TokenRanks` and register it in neither: their holder must register it once, or it is missing in checkpoints.

N vectors, K codebook size, D width of the vectors of the head.
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
    """How the tokens of a codebook are split by rank, and how wide the vectors of each cluster are."""

    codebook_size: int  # K
    cutoffs: tuple[int, ...]  # increasing ranks 1 .. K - 1 at which tail clusters start; the first is the head's size
    width: int  # D, of the head's vectors
    factor: float = 4.0  # tail cluster i = 1, 2, ... has vectors of width D // factor^i

    def __post_init__(self) -> None:
        """Raises ConfigError where a cluster would have no tokens, or vectors of width 0."""
        if not self.cutoffs or any(size < 1 for size in self.sizes):
            raise ConfigError(
                f"cutoffs (={list(self.cutoffs)}) must be one or more increasing ranks, each from 1 to "
                f"{self.codebook_size - 1}, for a codebook of size {self.codebook_size}"
            )
        if not self.factor >= 1 or not all(self.widths):
            raise ConfigError(
                f"factor (={self.factor}) must be at least 1 and leave the last of {len(self.cutoffs)} tail clusters a "
                f"width of {self.width} // factor^{len(self.cutoffs)} of at least 1: use fewer cutoffs or wider vectors"
            )

    @property
    def sizes(self) -> list[int]:
        """The number of tokens of each cluster, the head first."""
        return [end - start for start, end in pairwise((0, *self.cutoffs, self.codebook_size))]

    @property
    def widths(self) -> list[int]:
        """The width of the vectors of each cluster, the head first."""
        return [int(self.width // self.factor**i) for i in range(len(self.cutoffs) + 1)]


class TokenRanks(nn.Module):
    """The rank of each of K tokens by decreasing frequency; before `fit`, its index. Part of the checkpoint."""

    rank_of: Tensor  # int64 [K], the rank of each token
    token_at: Tensor  # int64 [K], the token of each rank

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        self.register_buffer("rank_of", torch.arange(codebook_size))
        self.register_buffer("token_at", torch.arange(codebook_size))

    def fit(self, counts: Tensor) -> None:
        """Ranks the tokens by their `counts` [K]; equally frequent ones by index.

        To be called before training: weights belong to ranks, so new ranks would give trained weights to other tokens.
        Raises DataError where the counts are not K.
        """
        if counts.shape != self.rank_of.shape:
            size = len(self.rank_of)
            raise DataError(f"counts have shape {list(counts.shape)}, expected [{size}], the codebook size")
        self.token_at.copy_(counts.argsort(descending=True, stable=True))
        self.rank_of.copy_(self.token_at.argsort())


class AdaptiveSoftmax(nn.Module):
    """Vectors -> probabilities of tokens: first of the head's tokens and the tail clusters, then within a cluster.

    Computed in float32, whatever autocast and the weights' dtype: torch's module fails under a CPU's autocast, and its
    log-softmax of bfloat16 weights has three digits.
    """

    _shared: tuple[TokenRanks]  # in a tuple, so that it is not registered

    def __init__(self, clusters: Clusters, ranks: TokenRanks) -> None:
        super().__init__()
        self.clusters = clusters
        self._shared = (ranks,)
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(
            clusters.width, clusters.codebook_size, clusters.cutoffs, div_value=clusters.factor
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """fairseq's initialisation of the adaptive input, to which it ties the softmax: see `AdaptiveEmbedding`."""
        _reset([self.softmax.head.weight, *self.vectors()[1:]], self.projections())

    @property
    def ranks(self) -> TokenRanks:
        """The ranks that it was constructed with."""
        return self._shared[0]

    def vectors(self) -> list[Tensor]:
        """The token vectors of each cluster, by rank [size, width]; the head's without those of the tail clusters."""
        return [self.softmax.head.weight[: self.clusters.sizes[0]], *(out.weight for _, out in self._tail())]

    def projections(self) -> list[Tensor]:
        """For each tail cluster the weights [width, D] from hidden vectors to the width of the cluster."""
        return [down.weight for down, _ in self._tail()]

    def nats(self, hidden: Tensor, indices: Tensor) -> Tensor:
        """Negative log-probability [N], float32, of `indices` [N] given `hidden` [N, D].

        Computes a tail cluster only for the tokens in it, and synchronises with the device to find them.
        """
        targets = self.ranks.rank_of.index_select(0, indices)  # unlike indexing, refuses negative indices
        weights = {name: weight.float() for name, weight in self.softmax.named_parameters()}
        with torch.autocast(hidden.device.type, enabled=False):
            return -functional_call(self.softmax, weights, (hidden.float(), targets)).output

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Log-probabilities [N, K], float32, of every token given `hidden` [N, D]."""
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            head = F.linear(hidden, self.softmax.head.weight.float()).log_softmax(-1)
            head_tokens, *clusters = head.split([self.clusters.sizes[0]] + [1] * len(self._tail()), -1)
            inside = [
                F.linear(F.linear(hidden, down.float()), vectors.float()).log_softmax(-1)
                for down, vectors in zip(self.projections(), self.vectors()[1:], strict=True)
            ]
            tails = [cluster + token for cluster, token in zip(clusters, inside, strict=True)]
            return torch.cat([head_tokens, *tails], -1)[:, self.ranks.rank_of]

    def _tail(self) -> list[tuple[nn.Linear, nn.Linear]]:
        return [cast(tuple[nn.Linear, nn.Linear], tuple(layers.children())) for layers in self.softmax.tail]


class AdaptiveEmbedding(nn.Module):
    """Tokens -> vectors: those of the head as they are, those of a tail cluster projected to the head's width.

    fairseq projects the head as well; without that, the head can be tied to torch's softmax. If `tied_to` is given the
    vectors are the softmax's, with `share_projections` the projections too; only the rest is registered here. The
    holder of both registers the softmax; a copy of the holder ties the copies.

    Raises ConfigError where `tied_to` has other clusters, or for `share_projections` without `tied_to`.
    """

    _shared: tuple[TokenRanks, AdaptiveSoftmax | None]  # in a tuple, so that it is not registered

    def __init__(
        self,
        clusters: Clusters,
        ranks: TokenRanks,
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
        """fairseq's initialisation: vectors normal, of deviation width^-0.5 by cluster; projections Xavier uniform.

        Tied weights are initialised by the softmax.
        """
        _reset(list(self.own_vectors), list(self.own_projections))

    def forward(self, indices: Tensor) -> Tensor:
        """Tokens [...] -> vectors [..., D]."""
        return F.embedding(indices, self.table())

    def table(self) -> Tensor:
        """The vectors of all tokens, [K, D]: small compared to a batch, and without the synchronisations that selecting
        by cluster would cost.
        """
        ranks, tied_to = self._shared
        vectors = tied_to.vectors() if tied_to else list(self.own_vectors)
        shared = [down.T for down in tied_to.projections()] if tied_to else []
        projections = list(self.own_projections) or shared  # [D, width]
        tails = [F.linear(*pair) for pair in zip(vectors[1:], projections, strict=True)]
        return torch.cat([vectors[0], *tails])[ranks.rank_of]


def _check_tie(clusters: Clusters, ranks: TokenRanks, tied_to: AdaptiveSoftmax | None, share_projections: bool) -> None:
    if tied_to is None:
        if share_projections:
            raise ConfigError("share_projections (=True) requires tied_to, the softmax whose projections they are")
        return
    if tied_to.clusters != clusters:
        raise ConfigError(
            f"tied embeddings require the same clusters; the input has {clusters}, the softmax {tied_to.clusters}"
        )
    assert tied_to.ranks is ranks, "a tied input and its softmax must share one TokenRanks"


def _reset(vectors: list[Tensor], projections: list[Tensor]) -> None:
    for weight in vectors:
        nn.init.normal_(weight, std=1 / math.sqrt(weight.shape[1]))
    for weight in projections:
        nn.init.xavier_uniform_(weight)
