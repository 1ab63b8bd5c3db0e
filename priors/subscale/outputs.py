"""The outputs at one location, codebook by codebook: each is conditioned on the tokens of the codebooks before it.

The channel predictor of the Video Transformer (arXiv 1906.02634, section 3.2) as LVT uses it.

N locations, q codebooks, K codebook size, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.subscale.adaptive import AdaptiveSoftmax, Clusters, TokenRanks
from tokenreel.priors.subscale.config import SubscaleTransformerConfig


class TokenSoftmax(nn.Module):
    """Vectors [N, D] -> probabilities of K tokens. Where an input is tied to it, its rows are the token embeddings."""

    def __init__(self, width: int, codebook_size: int, tied: bool) -> None:
        super().__init__()
        self.tied = tied
        self.linear = nn.Linear(width, codebook_size, bias=not tied)

    def reset_parameters(self) -> None:
        """Xavier uniform; if tied, fairseq's initialisation of embeddings: normal, of length about 1."""
        if self.tied:
            nn.init.normal_(self.linear.weight, std=self.linear.in_features**-0.5)
        else:
            nn.init.xavier_uniform_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def nats(self, hidden: Tensor, indices: Tensor) -> Tensor:
        """Negative log-probability [N], float32, of `indices` [N]."""
        return F.cross_entropy(self.linear(hidden).float(), indices, reduction="none")

    def log_probs(self, hidden: Tensor) -> Tensor:
        """[N, K], float32."""
        return self.linear(hidden).float().log_softmax(-1)


class CodebookOutput(nn.Module):
    """p(token of one codebook | the location's vector, the tokens of the `before` codebooks before it).

    Where the input is tied to it, the softmax is as narrow as the input's vectors.
    """

    offset: Tensor  # int64 [before], row of the table of token 0

    def __init__(
        self, config: SubscaleTransformerConfig, codebook_size: int, before: int, ranks: TokenRanks | None
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.width, config.width)
        # the weights of a linear layer on one-hot tokens
        self.earlier = nn.Embedding(before * codebook_size, config.width) if before else None
        tied = config.tied != "none"
        self.project_out = nn.Linear(config.width, config.embedding) if tied else nn.Identity()
        width = config.embedding if tied else config.width
        if config.adaptive_softmax:
            assert ranks is not None
            self.softmax: AdaptiveSoftmax | TokenSoftmax = AdaptiveSoftmax(
                Clusters(codebook_size, config.cutoffs, width), ranks
            )
        else:
            self.softmax = TokenSoftmax(width, codebook_size, tied)
        self.register_buffer("offset", torch.arange(before, device="cpu") * codebook_size, persistent=False)

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        """Vectors [N, D] and tokens [N, before] -> the input of the softmax."""
        x = self.hidden(x)
        if self.earlier is not None:
            x = x + F.embedding_bag(earlier + self.offset, self.earlier.weight, mode="sum")
        return self.project_out(x.relu())


class CodebookOutputs(nn.Module):
    """One output for each of q codebooks, on the layer-normed vector of a location."""

    def __init__(
        self, config: SubscaleTransformerConfig, codebook_size: int, codebooks: int, ranks: Sequence[TokenRanks]
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.codebooks = nn.ModuleList(
            CodebookOutput(config, codebook_size, q, ranks[q] if ranks else None) for q in range(codebooks)
        )

    def __iter__(self) -> Iterator[CodebookOutput]:
        return iter(self.codebooks)  # type: ignore[arg-type]

    def nats(self, hidden: Tensor, indices: Tensor) -> Tensor:
        """Negative log-probabilities [.., q] of tokens [.., q] at locations [.., D]."""
        x, flat = self.norm(hidden).flatten(0, -2), indices.flatten(0, -2)
        nats = [output.softmax.nats(output(x, flat[:, :q]), flat[:, q]) for q, output in enumerate(self)]
        return torch.stack(nats, -1).view(indices.shape)

    def log_probs(self, hidden: Tensor, earlier: Tensor) -> Tensor:
        """Log-probabilities [N, K] of the next token at locations [N, D], after the tokens `earlier` [N, k] there."""
        output = list(self)[earlier.shape[1]]
        return output.softmax.log_probs(output(self.norm(hidden), earlier))
