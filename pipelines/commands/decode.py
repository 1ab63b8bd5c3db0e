"""`tokenreel decode`: token files -> videos, one file a clip. Memory grows neither with their number nor length."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.spec import END
from tokenreel.errors import CacheError, ConfigError
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.decoding.tokens_to_video import decode_pieces, frame_rate_of, require_context, write_clips
from tokenreel.pipelines.decoding.true_frames import Reader, Wanted, open_known, places_of
from tokenreel.tokenizers.base import VideoTokenizer


def run(
    tokens: Path,
    tokenizer: str,
    out: Path,
    format: str = "mp4",
    batch: int = 16,
    context: int | None = None,
    context_video: str | None = None,
    prime: int | None = None,
    end: str | None = None,
    device: str | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """Decodes every clip of the token file or cache `tokens` into `out/<row>.<format>`.

    Each frame is decoded with up to `context` frames before it (None: as the tokenizer has it; 0: from its codes
    alone). The first `prime` of them (None: as many as the samples were given, or 1) are those of `context_video` as
    they are, the others decoded ones; `end` has a true frame that lies ahead: see `known_frames.open_known`.

    Raises CacheError where the tokens were made by another tokenizer, ConfigError for context that the tokenizer or the
    clips do not have, DataError where a true frame cannot be had.
    """
    cache = TokenCache.open(tokens)
    model = VideoTokenizer.from_pretrained(tokenizer, revision=revision).freeze().to(choose_device(device))
    require_same_codes(cache, model)
    known = _known_count(cache, context_video, prime)
    require_context(model, cache.spec.frames, context, known, end is not None)
    rows = cache.rows()
    with _open_true_frames(cache, model, context_video, known, end) as true_frames:
        fresh_folder(out)
        started = time.perf_counter()
        for first in progress(range(0, len(rows), batch), "decode", "batch"):
            some = slice(first, first + batch)
            pieces = decode_pieces(model, cache.read(rows[some]), context, *true_frames.read(some))
            write_clips([out / f"{row:06d}.{format}" for row in rows[some]], pieces, frame_rate_of(model))
        seconds = time.perf_counter() - started
    decoded = len(rows) * (cache.spec.frames - known)
    return {
        "out": str(out),
        "clips": len(rows),
        "frames": len(rows) * cache.spec.frames,
        "known_frames": known,
        "context": model.context if context is None else context,
        "frames_per_second": round(decoded / seconds, 1),
    }


def require_same_codes(cache: TokenCache, tokenizer: VideoTokenizer) -> None:
    """Raises CacheError unless the cache's codes are this tokenizer's."""
    if cache.code_fingerprint != tokenizer.code_fingerprint:
        raise CacheError(
            f"{cache.path} holds codes of the tokenizer {cache.code_fingerprint}, not of {tokenizer.code_fingerprint}: "
            "use the tokenizer that made them"
        )


def _known_count(cache: TokenCache, context_video: str | None, prime: int | None) -> int:
    """How many of a clip's frames `--context-video` shows."""
    if context_video is None:
        if prime is not None:
            raise ConfigError(f"--prime {prime} says how many frames of --context-video are known: give that too")
        return 0
    given = cache.provenance.get("given_frames")
    if prime is not None or given is None:
        return prime or 1
    if not 0 < given < cache.spec.frames:
        raise ConfigError(
            f"--context-video {context_video} shows the frames that samples were given, and that are {given} of the "
            f"{cache.spec.frames} of these: say by --prime how many it is to show, or leave it out"
        )
    return int(given)


@dataclass(frozen=True)
class _TrueFrames:
    first: Reader | None
    end: Reader | None

    def read(self, clips: slice) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The known first frames uint8 [B, n, H, W, 3] and the end frames [B, H, W, 3] of these clips."""
        first = None if self.first is None else self.first(clips)
        return first, None if self.end is None else self.end(clips)[:, 0]


@contextmanager
def _open_true_frames(
    cache: TokenCache, tokenizer: VideoTokenizer, context_video: str | None, known: int, end: str | None
) -> Iterator[_TrueFrames]:
    framing, places = tokenizer.spec.framing, places_of(cache, cache.rows())
    with ExitStack() as stack:
        first = last = None
        if context_video is not None:
            wanted = Wanted("--context-video", context_video, np.arange(known), framing)
            first = stack.enter_context(open_known(wanted, places))
        if end is not None:
            wanted = Wanted("--end", end, np.array([_end_tick(cache, tokenizer)]), framing)
            last = stack.enter_context(open_known(wanted, places))
        yield _TrueFrames(first, last)


def _end_tick(cache: TokenCache, tokenizer: VideoTokenizer) -> int:
    """The clip's last; of samples that were to arrive at the last frame of the clip they go on from, that one."""
    frames = cache.spec.frames
    arrive = END in cache.provenance.get("given_controls", ())
    return (min(frames, tokenizer.spec.frames) if arrive else frames) - 1
