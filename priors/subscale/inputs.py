"""Codes of a place -> one vector, the sum of one for each codebook. Knows no places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.subscale.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, Clusters, CodeRanks
from tokenreel.priors.subscale.config import SubscaleTransformerConfig
from tokenreel.priors.subscale.outputs import CodebookOutputs, CodeSoftmax


class TiedEmbedding(nn.Module):
    """The rows of a softmax as vectors of its codes (Press & Wolf 2017, arXiv 1608.05859); it owns no weights."""

    def __init__(self, softmax: CodeSoftmax) -> None:
        super().__init__()
        self._softmax = (softmax,)  # in a tuple it is no submodule, so its weights are saved once

    def forward(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self._softmax[0].linear.weight)


class CodeVectors(nn.Module):
    """Codes [.., q] -> [.., embedding], with vectors of its own or those of the `outputs` that they are tied to."""

    def __init__(
        self,
        config: SubscaleTransformerConfig,
        codebook_size: int,
        outputs: CodebookOutputs,
        ranks: Sequence[CodeRanks],
    ) -> None:
        super().__init__()
        as_outputs = config.adaptive_input or config.tied != "none"
        self.scale = config.embedding**0.5 if as_outputs else 1.0  # of length 1 in outputs; as inputs as long as others
        self.books = nn.ModuleList(
            _vectors(config, codebook_size, output.softmax, ranks[book] if ranks else None)
            for book, output in enumerate(outputs)
        )

    def forward(self, indices: Tensor) -> Tensor:
        return self.scale * torch.stack([book(indices[..., k]) for k, book in enumerate(self.books)]).sum(0)


def _vectors(
    config: SubscaleTransformerConfig,
    codebook_size: int,
    softmax: AdaptiveSoftmax | CodeSoftmax,
    ranks: CodeRanks | None,
) -> nn.Module:
    """Of one codebook."""
    if config.adaptive_input:
        assert ranks is not None
        clusters = Clusters(codebook_size, config.cutoffs, config.embedding)
        if config.tied == "none":
            return AdaptiveEmbedding(clusters, ranks)
        assert isinstance(softmax, AdaptiveSoftmax)
        return AdaptiveEmbedding(clusters, ranks, softmax, share_projections=config.tied == "projections")
    if config.tied == "none":
        return nn.Embedding(codebook_size, config.embedding)
    assert isinstance(softmax, CodeSoftmax)
    return TiedEmbedding(softmax)
