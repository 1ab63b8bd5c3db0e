"""Sizes and settings of the tokenizers and priors of LVT's grid, and the training of one of them.

A run is a tokenizer with the cache of its tokens (stage one), or a prior on such a cache (stage two).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenreel.data.cache.reader import TokenCache
from tokenreel.pipelines.commands import tokenize_dataset, train_prior, train_tokenizer
from tokenreel.pipelines.common.codebook_usage import count_tokens
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.requests.training import TrainPriorRequest, TrainTokenizerRequest

FRAMES, PIXELS, CODEBOOK_SIZE = 16, 64, 64  # frames of a clip, pixels along its edges
CLIPS = 8  # in a training step of a prior, which trains one slice of each
GIVEN_FRAMES = 1  # frames given in training and for bits/code
SUBSCALES = {  # name -> factor, and kernel of the encoder as in the published code
    "single frame": ((16, 1, 1), (7, 1, 1)),
    "spatial": ((1, 2, 2), (1, 3, 3)),
    "spatiotemporal": ((4, 2, 2), (5, 3, 3)),
}
LOOP = (
    "training={optimizer: adamw, schedule: cosine, warmup: 50, clip_norm: 1.0, precision: bf16, threads: 1, "
    "keep_checkpoints: 1}"
)
EVALUATION = (  # only at the end, and then on all held-out clips
    "training={checkpoint_every: 200, validate_every: 1000000, validation_clips: 1000000, sample_every: 1000000, "
    "sample_clips: 1}"
)
TOKENIZER = (
    f"data={{frames: {FRAMES}, framing: {{height: {PIXELS}, width: {PIXELS}}}}}",
    "tokenizer={type: frame-vqvae, hidden: 128, residual: 128, blocks: 1, downsamplings: 3, latent: 64}",
    "tokenizer.quantizer={type: vq, commitment: 0.25, decay: 0.97, init: kmeans, revive_below: 0.05}",
    f"tokenizer.quantizer.codebook_size={CODEBOOK_SIZE}",
    *(LOOP, EVALUATION, "training={batch: 2, learning_rate: 1.5e-3, betas: [0.9, 0.9]}"),
)
PRIOR = (
    "prior={type: subscale-transformer, depth: 2, width: 96, heads: 4, head_width: 24, embedding: 32}",
    *(LOOP, EVALUATION, "training={learning_rate: 6.0e-3, betas: [0.9, 0.95], weight_decay: 0.05}"),
    f"training={{given_frames: {GIVEN_FRAMES}, validation_given_frames: {GIVEN_FRAMES}}}",
)


@dataclass(frozen=True)
class Sizes:
    """Training steps, and the number of videos."""

    tokenizer_steps: int
    prior_steps: int
    videos: int  # of two clips each
    allow_collapsed: bool  # after a few steps most codes are still unused

    @property
    def data(self) -> str:
        return f"tabletop:?videos={self.videos}&frames={2 * FRAMES}&size={PIXELS}"

    def clips(self, subscale: str) -> int:
        """Clips in a prior's step, so that all types train equally many tokens: spatial slices are four times as
        large.
        """
        return CLIPS * math.prod(SUBSCALES[subscale][0]) // 16


@dataclass(frozen=True)
class Variant:
    """What differs between priors."""

    subscale: str = "single frame"
    attention: str = "query-key"
    adaptive_input: bool = False
    adaptive_softmax: bool = False
    tied: str = "none"

    @property
    def name(self) -> str:
        adaptive = [name for name in ("adaptive_input", "adaptive_softmax") if getattr(self, name)]
        tied = [] if self.tied == "none" else ["tied", self.tied]
        return "-".join([self.subscale, self.attention, *adaptive, *tied]).replace(" ", "-").replace("_", "-")

    def assignment(self, frequent: int) -> str:
        """Its settings as an argument of --set; the `frequent` most frequent codes are the first adaptive cluster."""
        subscale, kernel = SUBSCALES[self.subscale]
        adaptive = self.adaptive_input or self.adaptive_softmax
        settings = {"subscale": subscale, "kernel": kernel, "attention": self.attention, "tied": self.tied}
        clusters = {"adaptive_input": self.adaptive_input, "adaptive_softmax": self.adaptive_softmax}
        return f"prior={json.dumps({**settings, **clusters, 'cutoffs': [frequent] if adaptive else []})}"


@dataclass(frozen=True)
class Run:
    """A tokenizer if there is no variant, otherwise a prior. A prior and its tokenizer have the same seed."""

    codebooks: int  # nc
    seed: int
    variant: Variant | None = None

    @property
    def tokenizer(self) -> Run:
        return Run(self.codebooks, self.seed)


@dataclass(frozen=True)
class Task:
    """A run and its folders: all that a process needs to train it."""

    run: Run
    sizes: Sizes
    folder: Path
    cache: Path
    frequent: int  # codes that hold 80 % of the mass, for stage two

    def train(self) -> tuple[Run, dict[str, float]]:
        """Returns the run and its scores. Continues an interrupted training in `folder`."""
        return self.run, (self._tokenizer() if self.run.variant is None else self._prior(self.run.variant))

    def _tokenizer(self) -> dict[str, float]:
        summary = train_tokenizer.run(
            TrainTokenizerRequest(
                assignments=(*TOKENIZER, f"tokenizer.quantizer.codebooks={self.run.codebooks}"),
                data=self.sizes.data,
                out=self.folder,
                steps=self.sizes.tokenizer_steps,
                seed=self.run.seed,
                device="cpu",
                workers=0,
            )
        )
        tokenize_dataset.run(
            TokenizeRequest(
                tokenizer=str(self.folder),
                data=self.sizes.data,
                out=self.cache,
                device="cpu",
                allow_collapsed=self.sizes.allow_collapsed,
            )
        )
        _, counters = count_tokens(TokenCache.open(self.cache))
        return {**_numbers(summary), "frequent_codes": counters["video"].usage()[0].holding_80_percent}

    def _prior(self, variant: Variant) -> dict[str, float]:
        summary = train_prior.run(
            TrainPriorRequest(
                assignments=(
                    *PRIOR,
                    variant.assignment(self.frequent),
                    f"training.batch={self.sizes.clips(variant.subscale)}",
                ),
                cache=self.cache,
                out=self.folder,
                steps=self.sizes.prior_steps,
                seed=self.run.seed,
                device="cpu",
            )
        )
        return _numbers(summary)


def _numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in summary.items() if isinstance(value, int | float)}
