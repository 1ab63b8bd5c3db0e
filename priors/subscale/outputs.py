"""The codes of one place, codebook by codebook: each sees the place's vector and the codes of the codebooks before it.

The channel predictor of the Video Transformer (arXiv 1906.02634, section 3.2) as LVT uses it. N places, q codebooks,
K codes, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.subscale.adaptive import AdaptiveSoftmax, Clusters, CodeRanks
from tokenreel.priors.subscale.config import SubscaleTransformerConfig


class CodeSoftmax(nn.Module):
    """Vectors [N, D] -> probabilities of K codes. Where an input is tied to it, its rows are the vectors of codes."""

    def __init__(self, width: int, codebook_size: int, tied: bool) -> None:
        super().__init__()
        self.tied = tied
        self.linear = nn.Linear(width, codebook_size, bias=not tied)

    def reset_parameters(self) -> None:
        """Xavier uniform; tied, what fairseq has for vectors that come in: normal, of length about 1."""
        if self.tied:
            nn.init.normal_(self.linear.weight, std=self.linear.in_features**-0.5)
        else:
            nn.init.xavier_uniform_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def nats(self, hidden: Tensor, indices: Tensor) -> Tensor:
        """Minus log-probability [N], float32, of `indices` [N]."""
        return F.cross_entropy(self.linear(hidden).float(), indices, reduction="none")

    def log_probs(self, hidden: Tensor) -> Tensor:
        """[N, K], float32."""
        return self.linear(hidden).float().log_softmax(-1)


class CodebookOutput(nn.Module):
    """p(code of one codebook | the place's vector, the codes of the `before` codebooks before it).

    Where the input's vectors are tied to it, the softmax is as narrow as they are.
    """

    first: Tensor  # int64 [before], row of the table of code 0

    def __init__(
        self, config: SubscaleTransformerConfig, codebook_size: int, before: int, ranks: CodeRanks | None
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.width, config.width)
        self.earlier = (
            nn.Embedding(before * codebook_size, config.width) if before else None
        )  # a linear layer on one-hot codes
        tied = config.tied != "none"
        self.project_out = nn.Linear(config.width, config.embedding) if tied else nn.Identity()
        width = config.embedding if tied else config.width
        if config.adaptive_softmax:
            assert ranks is not None
            self.softmax: AdaptiveSoftmax | CodeSoftmax = AdaptiveSoftmax(
                Clusters(codebook_size, config.cutoffs, width), ranks
            )
        else:
            self.softmax = CodeSoftmax(width, codebook_size, tied)
        self.register_buffer("first", torch.arange(before, device="cpu") * codebook_size, persistent=False)

    def forward(self, place: Tensor, earlier: Tensor) -> Tensor:
        """[N, D] and codes [N, before] -> what the softmax takes."""
        x = self.hidden(place)
        if self.earlier is not None:
            x = x + F.embedding_bag(earlier + self.first, self.earlier.weight, mode="sum")
        return self.project_out(x.relu())


class CodebookOutputs(nn.Module):
    """One output for each of q codebooks on the normalised vector of a place."""

    def __init__(
        self, config: SubscaleTransformerConfig, codebook_size: int, codebooks: int, ranks: Sequence[CodeRanks]
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.books = nn.ModuleList(
            CodebookOutput(config, codebook_size, book, ranks[book] if ranks else None) for book in range(codebooks)
        )

    def __iter__(self) -> Iterator[CodebookOutput]:
        return iter(self.books)  # type: ignore[arg-type]

    def nats(self, places: Tensor, indices: Tensor) -> Tensor:
        """Minus log-probabilities [.., q] of codes [.., q] at places [.., D]."""
        x, flat = self.norm(places).flatten(0, -2), indices.flatten(0, -2)
        nats = [book.softmax.nats(book(x, flat[:, :k]), flat[:, k]) for k, book in enumerate(self)]
        return torch.stack(nats, -1).view(indices.shape)

    def log_probs(self, places: Tensor, earlier: Tensor) -> Tensor:
        """Log-probabilities [N, K] of the next code at places [N, D], those before it being `earlier` [N, k]."""
        book = list(self)[earlier.shape[1]]
        return book.softmax.log_probs(book(self.norm(places), earlier))
