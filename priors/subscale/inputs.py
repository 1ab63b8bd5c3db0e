"""Input vectors of the subscale transformer: the tokens of a location -> the sum of one vector per codebook."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.subscale.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, Clusters, TokenRanks
from tokenreel.priors.subscale.config import SubscaleTransformerConfig
from tokenreel.priors.subscale.outputs import CodebookOutputs, TokenSoftmax


class TiedEmbedding(nn.Module):
    """The rows of a softmax as token embeddings (Press & Wolf 2017, arXiv 1608.05859); it has no weights of its own."""

    def __init__(self, softmax: TokenSoftmax) -> None:
        super().__init__()
        self._softmax = (softmax,)  # in a tuple it is not registered, so that its weights are saved once

    def forward(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self._softmax[0].linear.weight)


class CodebookEmbeddings(nn.Module):
    """Tokens [.., q] -> [.., embedding], with own embeddings, or with those of the `outputs` that they are tied to."""

    def __init__(
        self,
        config: SubscaleTransformerConfig,
        codebook_size: int,
        outputs: CodebookOutputs,
        ranks: Sequence[TokenRanks],
    ) -> None:
        super().__init__()
        as_outputs = config.adaptive_input or config.tied != "none"
        self.scale = config.embedding**0.5 if as_outputs else 1.0  # vectors of outputs have length 1, embeddings more
        self.codebooks = nn.ModuleList(
            _embedding(config, codebook_size, output.softmax, ranks[q] if ranks else None)
            for q, output in enumerate(outputs)
        )

    def forward(self, indices: Tensor) -> Tensor:
        vectors = [embedding(indices[..., q]) for q, embedding in enumerate(self.codebooks)]
        return self.scale * torch.stack(vectors).sum(0)


def _embedding(
    config: SubscaleTransformerConfig,
    codebook_size: int,
    softmax: AdaptiveSoftmax | TokenSoftmax,
    ranks: TokenRanks | None,
) -> nn.Module:
    """The embedding of one codebook, whose output is `softmax`."""
    if config.adaptive_input:
        assert ranks is not None
        clusters = Clusters(codebook_size, config.cutoffs, config.embedding)
        if config.tied == "none":
            return AdaptiveEmbedding(clusters, ranks)
        assert isinstance(softmax, AdaptiveSoftmax)
        return AdaptiveEmbedding(clusters, ranks, softmax, share_projections=config.tied == "projections")
    if config.tied == "none":
        return nn.Embedding(codebook_size, config.embedding)
    assert isinstance(softmax, TokenSoftmax)
    return TiedEmbedding(softmax)
