"""`tokenreel decode`: token files -> videos. One file a clip; memory does not grow with the number of clips."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.pixels import to_frames
from tokenreel.data.video_writer import write_video
from tokenreel.errors import CacheError
from tokenreel.pipelines.device import choose_device
from tokenreel.pipelines.output_folder import fresh_folder
from tokenreel.pipelines.progress import progress
from tokenreel.tokenizers.base import VideoTokenizer

STEPS_AT_ONCE = 64  # code steps that a framewise tokenizer decodes at a time, so that a long clip needs no more memory
DEFAULT_FRAME_RATE = 10.0  # frames a second, where the data set kept its sources' own rates


def run(
    tokens: Path,
    tokenizer: str,
    out: Path,
    format: str = "mp4",
    batch: int = 16,
    device: str | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """Decodes every clip of the token file or cache `tokens` into `out/<row>.<format>`.

    Raises CacheError where the tokens were made by another tokenizer.
    """
    cache = TokenCache.open(tokens)
    model = VideoTokenizer.from_pretrained(tokenizer, revision=revision).freeze().to(choose_device(device))
    require_same_codes(cache, model)
    fresh_folder(out)
    rows, started = cache.rows(), time.perf_counter()
    frames = 0
    for first in progress(range(0, len(rows), batch), "decode", "batch"):
        some = rows[first : first + batch]
        for row, clip in zip(some, decode_tokens(model, cache.read(some)), strict=True):
            write_video(out / f"{row:06d}.{format}", clip, frame_rate_of(model))
            frames += len(clip)
    seconds = time.perf_counter() - started
    return {"out": str(out), "clips": len(rows), "frames": frames, "frames_per_second": round(frames / seconds, 1)}


def require_same_codes(cache: TokenCache, tokenizer: VideoTokenizer) -> None:
    """Raises CacheError unless the cache's codes are this tokenizer's."""
    if cache.code_fingerprint != tokenizer.code_fingerprint:
        raise CacheError(
            f"{cache.path} holds codes of the tokenizer {cache.code_fingerprint}, not of {tokenizer.code_fingerprint}: "
            "use the tokenizer that made them"
        )


def frame_rate_of(tokenizer: VideoTokenizer) -> float:
    """At which its videos are shown, in frames a second."""
    return tokenizer.spec.framing.frame_rate or DEFAULT_FRAME_RATE


def decode_tokens(tokenizer: VideoTokenizer, tokens: Mapping[str, np.ndarray]) -> np.ndarray:
    """Codes by stream [B, t, h, w, q] -> uint8 [B, T, H, W, 3]; a framewise tokenizer takes a long clip in pieces."""
    return np.concatenate([_decode_piece(tokenizer, piece) for piece in _pieces(tokenizer, tokens)], axis=1)


def _pieces(tokenizer: VideoTokenizer, tokens: Mapping[str, np.ndarray]) -> Iterator[Mapping[str, np.ndarray]]:
    steps = max(codes.shape[1] for codes in tokens.values())
    if tokenizer.spec.time != "framewise":
        yield tokens
        return
    for first in range(0, steps, STEPS_AT_ONCE):
        yield {name: codes[:, first : first + STEPS_AT_ONCE] for name, codes in tokens.items()}


@torch.inference_mode()
def _decode_piece(tokenizer: VideoTokenizer, tokens: Mapping[str, np.ndarray]) -> np.ndarray:
    device = next(tokenizer.parameters()).device
    codes = {name: torch.from_numpy(array.astype(np.int64)).to(device) for name, array in tokens.items()}
    return to_frames(tokenizer.decode(codes))
