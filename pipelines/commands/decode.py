"""`tokenreel decode`: token files -> videos, one file a clip. Memory grows neither with their number nor length."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.pixels import to_frames, to_model
from tokenreel.data.spec import END
from tokenreel.data.video.writer import VideoWriter
from tokenreel.errors import CacheError, ConfigError
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.output_folder import fresh_folder
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.decoding.true_frames import Reader, Wanted, open_known, places_of
from tokenreel.tokenizers.base import VideoTokenizer

FRAMES_AT_ONCE = 64  # of all clips together, that a framewise tokenizer decodes at a time
DEFAULT_FRAME_RATE = 10.0  # frames a second, where the data set kept its sources' own rates


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


def frame_rate_of(tokenizer: VideoTokenizer) -> float:
    """At which its videos are shown, in frames a second."""
    return tokenizer.spec.framing.frame_rate or DEFAULT_FRAME_RATE


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


@torch.inference_mode()
def require_context(
    tokenizer: VideoTokenizer, frames: int, context: int | None = None, known: int = 0, end: bool = False
) -> None:
    """Raises ConfigError where clips of `frames` frames, `known` of them true ones, cannot be decoded with `context`
    frames before each, or the tokenizer has no use for any of it.
    """
    if known >= frames:
        most = f"give at most {frames - 1}" if frames > 1 else "give none"
        raise ConfigError(f"--prime {known}: {_clips_of(frames)}; {most}, or nothing is decoded")
    if context is not None and context >= frames:
        most = f"give at most {frames - 1}" if frames > 1 else "leave it out"
        raise ConfigError(f"--context {context}: {_clips_of(frames)}, the last of them {frames - 1} before it; {most}")
    if end and context == 0:
        raise ConfigError("--end helps nothing with --context 0, which decodes each frame on its own: leave one out")
    framing = tokenizer.spec.framing
    blank = np.zeros((1, 1, framing.height, framing.width, 3), np.uint8)
    _new_memory(tokenizer, context, blank if known else None, blank[:, 0] if end else None)


def _clips_of(frames: int) -> str:
    return f"the clips have {frames} frame{'s' * (frames > 1)}"


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
    arrive = END in cache.provenance.get("given_tracks", ())
    return (min(frames, tokenizer.spec.frames) if arrive else frames) - 1


def write_clips(paths: Sequence[Path], pieces: Iterable[np.ndarray], frame_rate: float) -> None:
    """Pieces uint8 [B, n, H, W, 3], one after the other, -> a file for each of the B clips."""
    with ExitStack() as stack:
        writers = [stack.enter_context(VideoWriter(path, frame_rate)) for path in paths]
        for piece in pieces:
            for writer, frames in zip(writers, piece, strict=True):
                writer.add(frames)


def decode_tokens(tokenizer: VideoTokenizer, tokens: Mapping[str, np.ndarray], **context: Any) -> np.ndarray:
    """Codes by stream [B, t, h, w, q] -> uint8 [B, T, H, W, 3]. `context`: as for `decode_pieces`."""
    return np.concatenate(list(decode_pieces(tokenizer, tokens, **context)), axis=1)


def decode_pieces(
    tokenizer: VideoTokenizer,
    tokens: Mapping[str, np.ndarray],
    context: int | None = None,
    known: np.ndarray | None = None,
    end: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Codes by stream [B, t, h, w, q] -> the clips' frames from the first on, uint8 [B, n, H, W, 3] at a time.

    `known` uint8 [B, n, H, W, 3] are the first frames as they are; decoding begins after them. With up to `context`
    frames before it (None: as the tokenizer has it), and with `end` uint8 [B, H, W, 3], each frame is decoded. Tracks
    that steered a prior are passed over. Raises ConfigError as `VideoTokenizer.new_memory`.
    """
    memory = _new_memory(tokenizer, context, known, end)
    given = 0
    if known is not None:
        given = known.shape[1]
        yield known
    levels = tokenizer.spec.levels
    later = {level.name: tokens[level.name][:, tokenizer.spec.steps_of_frames(given, level) :] for level in levels}
    for piece in _pieces(tokenizer, later):
        yield _decode_piece(tokenizer, piece, memory)


@torch.inference_mode()
def _new_memory(
    tokenizer: VideoTokenizer, context: int | None, known: np.ndarray | None, end: np.ndarray | None
) -> Any:
    return tokenizer.new_memory(
        context,
        None if known is None else _pixels(tokenizer, known),
        None if end is None else _pixels(tokenizer, end[:, None])[:, :, 0],
    )


def _pixels(tokenizer: VideoTokenizer, frames: np.ndarray) -> Tensor:
    return to_model(np.array(frames), next(tokenizer.parameters()).device)  # a copy: one may stand for all, read-only


def _pieces(tokenizer: VideoTokenizer, tokens: Mapping[str, np.ndarray]) -> Iterator[Mapping[str, np.ndarray]]:
    """Of a framewise tokenizer as many code steps as make FRAMES_AT_ONCE frames, else all."""
    clips, steps = next(iter(tokens.values())).shape[:2]
    if tokenizer.spec.time != "framewise":
        yield tokens
        return
    at_once = max(1, FRAMES_AT_ONCE // clips)
    for first in range(0, steps, at_once):
        yield {name: codes[:, first : first + at_once] for name, codes in tokens.items()}


@torch.inference_mode()
def _decode_piece(tokenizer: VideoTokenizer, tokens: Mapping[str, np.ndarray], memory: Any) -> np.ndarray:
    device = next(tokenizer.parameters()).device
    codes = {name: torch.from_numpy(array.astype(np.int64)).to(device) for name, array in tokens.items()}
    return to_frames(tokenizer.decode(codes, memory))
