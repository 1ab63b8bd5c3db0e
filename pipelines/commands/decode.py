"""`tokenreel decode`: a token file or cache -> videos, one file per clip. Memory grows neither with the number of clips
nor with their length.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.spec import END
from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.fingerprints import require_one_tokenizer
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.decoding.tokens_to_video import decode_pieces, frame_rate_of, require_context, write_clips
from tokenreel.pipelines.decoding.true_frames import FrameRequest, Reader, clip_positions, open_true_frames
from tokenreel.pipelines.requests.decoding import DecodeRequest
from tokenreel.tokenizers.base import VideoTokenizer


def run(request: DecodeRequest) -> dict[str, Any]:
    """Decodes every clip of `tokens` into `out/<row>.<format>`. The given frames are written as they are.

    Raises CacheError where the tokens were made by another tokenizer, ConfigError for context that the tokenizer or the
    clips do not have, DataError where a true frame is missing or cannot be read.
    """
    cache = TokenCache.open(request.tokens)
    device = choose_device(request.device)
    tokenizer = VideoTokenizer.from_pretrained(request.tokenizer, revision=request.revision).freeze().to(device)
    require_one_tokenizer(
        {
            f"--tokens {request.tokens}": cache.code_fingerprint,
            f"--tokenizer {request.tokenizer}": tokenizer.code_fingerprint,
        }
    )
    given, frames, rows = _given_frames(request, cache), cache.spec.frames, cache.rows()
    require_context(tokenizer, frames, request.context, given, request.end is not None)
    with _open_true_frames(request, cache, tokenizer, given) as true_frames:
        fresh_folder(request.out)
        started = time.perf_counter()
        for first in progress(range(0, len(rows), request.batch), "decode", "batch"):
            batch = slice(first, first + request.batch)
            pieces = decode_pieces(tokenizer, cache.read(rows[batch]), request.context, *true_frames.read(batch))
            paths = [request.out / f"{row:06d}.{request.format}" for row in rows[batch]]
            write_clips(paths, pieces, frame_rate_of(tokenizer))
        seconds = time.perf_counter() - started
    return {
        "out": str(request.out),
        "clips": len(rows),
        "frames": len(rows) * frames,
        "given_frames": given,
        "context": tokenizer.context if request.context is None else request.context,
        "frames_per_second": round(len(rows) * (frames - given) / seconds, 1),
    }


def _given_frames(request: DecodeRequest, cache: TokenCache) -> int:
    """How many frames of each clip come from `--context-video`."""
    if request.context_video is None:
        return 0
    given = cache.provenance.get("given_frames")
    if request.given_frames is not None or given is None:
        return request.given_frames or 1
    if not 0 < given < cache.spec.frames:
        raise ConfigError(
            f"--context-video {request.context_video}: the samples were given {given} of their {cache.spec.frames} "
            "frames, so there is no default: say by --given-frames how many to use, or omit --context-video"
        )
    return int(given)


@dataclass(frozen=True)
class _TrueFrameReaders:
    first: Reader | None
    end: Reader | None

    def read(self, clips: slice) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The given frames uint8 [B, n, H, W, 3] and the end frames [B, H, W, 3] of these clips."""
        first = None if self.first is None else self.first(clips)
        return first, None if self.end is None else self.end(clips)[:, 0]


@contextmanager
def _open_true_frames(
    request: DecodeRequest, cache: TokenCache, tokenizer: VideoTokenizer, given: int
) -> Iterator[_TrueFrameReaders]:
    framing, positions = tokenizer.spec.framing, clip_positions(cache, cache.rows())
    with ExitStack() as stack:
        first = end = None
        if request.context_video is not None:
            frames = FrameRequest("--context-video", request.context_video, np.arange(given), framing)
            first = stack.enter_context(open_true_frames(frames, positions))
        if request.end is not None:
            frames = FrameRequest("--end", request.end, np.array([_end_tick(cache, tokenizer)]), framing)
            end = stack.enter_context(open_true_frames(frames, positions))
        yield _TrueFrameReaders(first, end)


def _end_tick(cache: TokenCache, tokenizer: VideoTokenizer) -> int:
    """The clip's last frame; for samples that were given an end frame, the last frame of the clip they continue."""
    frames = cache.spec.frames
    with_end = END in cache.provenance.get("given_controls", ())
    return (min(frames, tokenizer.spec.frames) if with_end else frames) - 1
