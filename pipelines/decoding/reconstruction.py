"""Clips encoded and decoded, one after the other, and their scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.order import evenly_spaced
from tokenreel.data.pixels import to_model
from tokenreel.data.plan import Plan
from tokenreel.data.plan_config import DataConfig
from tokenreel.decoders.generators.base import VideoGenerator
from tokenreel.metrics.codes import CodeCounter
from tokenreel.metrics.reconstruction import MEAN_IMAGE_CLIPS, ReconstructionScores, mean_image
from tokenreel.pipelines.decoding.tokens_to_video import decode_tokens
from tokenreel.tokenizers.base import VideoTokenizer

READ_AHEAD = 4  # clips


@dataclass(frozen=True)
class ReconstructedClip:
    row: int  # of the plan
    original: np.ndarray  # uint8 [T, H, W, 3]
    decoded: np.ndarray  # uint8 [T, H, W, 3]; the first `given` ones are the original's
    tokens: dict[str, np.ndarray]  # [t, h, w, q] by stream
    given: int = 0  # first frames that were not decoded


def data_config_of(model: VideoTokenizer | VideoGenerator) -> DataConfig:
    """Clips as the model takes them, with the default division, so that held-out videos stay held out."""
    return DataConfig(model.spec.framing, model.spec.frames)


def mean_image_of(plan: Plan, pool: DecodePool) -> np.ndarray:
    """float64 [H, W, 3]: the mean of training clips spread over the plan."""
    rows = evenly_spaced(plan.rows("train"), MEAN_IMAGE_CLIPS)
    return mean_image(clip for _, clip in read_clips(plan, pool, rows))


def read_clips(plan: Plan, pool: DecodePool, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(row, uint8 [T, H, W, 3]). Raises DecodeFailure where a clip does not decode."""
    for row, result in zip(rows.tolist(), pool.read(map(plan.request, rows.tolist()), ahead=READ_AHEAD), strict=True):
        if result.frames is None:
            assert result.failure is not None
            raise result.failure
        yield row, result.frames


def reconstruct(
    tokenizer: VideoTokenizer,
    plan: Plan,
    pool: DecodePool,
    rows: np.ndarray,
    context: int | None = None,
    given: int = 0,
) -> Iterator[ReconstructedClip]:
    """Reconstructs the clips of `rows` of the plan, each with its first `given` frames as they are and `context` frames
    of context (None: the tokenizer's setting). Raises DecodeFailure where a clip does not decode.
    """
    for row, original in read_clips(plan, pool, rows):
        with torch.inference_mode():
            indices = tokenizer.encode(to_model(original[None], tokenizer.device))
        tokens = {name: array.cpu().numpy() for name, array in indices.items()}
        first = original[None, :given] if given else None
        decoded = decode_tokens(tokenizer, tokens, context=context, given=first)[0]
        yield ReconstructedClip(row, original, decoded, {name: array[0] for name, array in tokens.items()}, given)


class Scorer:
    """Scores of reconstructed clips: the pixels of decoded frames, and the usage of each codebook."""

    def __init__(self, tokenizer: VideoTokenizer, mean_image: np.ndarray) -> None:
        self._pixels = ReconstructionScores(mean_image)
        self._compression = tokenizer.spec.compression
        self.counters = {
            level.name: CodeCounter(level.codebook_size, level.codebooks) for level in tokenizer.spec.levels
        }

    def update(self, clip: ReconstructedClip) -> None:
        self._pixels.update(clip.original[clip.given :], clip.decoded[clip.given :])
        for name, counter in self.counters.items():
            counter.update(clip.tokens[name])

    def compute(self) -> dict[str, Any]:
        """Those of `ReconstructionScores`, `compression` (the fraction of the bits that the tokens save) and
        `codebook_usage`: the fraction of each level's codebooks in use, and their perplexity, over how many tokens:
        few clips use few codes.
        """
        usage = {
            name: [
                {"used": round(use.used, 4), "perplexity": round(use.perplexity, 1), "tokens_counted": use.counted}
                for use in counter.usage()
            ]
            for name, counter in self.counters.items()
        }
        pixels = {name: round(value, 4) for name, value in self._pixels.compute().items()}
        return {**pixels, "compression": round(self._compression, 4), "codebook_usage": usage}
