"""Tokens -> frames -> video files, in pieces, so that memory grows neither with the number nor the length of clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.pixels import to_frames, to_model
from tokenreel.data.video.writer import VideoWriter
from tokenreel.errors import ConfigError
from tokenreel.tokenizers.base import VideoTokenizer

FRAMES_AT_ONCE = 64  # of all clips together, that a framewise tokenizer decodes at a time
DEFAULT_FRAME_RATE = 10.0  # frames a second, where the data set kept its sources' own rates


def frame_rate_of(tokenizer: VideoTokenizer) -> float:
    """At which its videos are shown, in frames a second."""
    return tokenizer.spec.framing.frame_rate or DEFAULT_FRAME_RATE


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
    _new_context_buffer(tokenizer, context, blank if known else None, blank[:, 0] if end else None)


def _clips_of(frames: int) -> str:
    return f"the clips have {frames} frame{'s' * (frames > 1)}"


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
    that steered a prior are passed over. Raises ConfigError as `VideoTokenizer.new_context_buffer`.
    """
    context_buffer = _new_context_buffer(tokenizer, context, known, end)
    given = 0
    if known is not None:
        given = known.shape[1]
        yield known
    levels = tokenizer.spec.levels
    later = {level.name: tokens[level.name][:, tokenizer.spec.steps_of_frames(given, level) :] for level in levels}
    for piece in _pieces(tokenizer, later):
        yield _decode_piece(tokenizer, piece, context_buffer)


@torch.inference_mode()
def _new_context_buffer(
    tokenizer: VideoTokenizer, context: int | None, known: np.ndarray | None, end: np.ndarray | None
) -> Any:
    return tokenizer.new_context_buffer(
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
def _decode_piece(tokenizer: VideoTokenizer, tokens: Mapping[str, np.ndarray], context_buffer: Any) -> np.ndarray:
    device = next(tokenizer.parameters()).device
    codes = {name: torch.from_numpy(array.astype(np.int64)).to(device) for name, array in tokens.items()}
    return to_frames(tokenizer.decode(codes, context_buffer))
