"""Tokens -> frames -> video files, piece by piece: memory grows neither with the number of clips nor their length."""

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
from tokenreel.decoders.generators.base import VideoGenerator
from tokenreel.errors import ConfigError
from tokenreel.tokenizers.base import VideoTokenizer

FRAMES_AT_ONCE = 64  # decoded at a time by a framewise tokenizer, all clips together
DEFAULT_FRAME_RATE = 10.0  # frames per second, where the data set kept the rates of its sources


def frame_rate_of(model: VideoTokenizer | VideoGenerator) -> float:
    """Frames per second at which its videos are shown."""
    return model.spec.framing.frame_rate or DEFAULT_FRAME_RATE


@torch.inference_mode()
def require_context(
    tokenizer: VideoTokenizer, frames: int, context: int | None = None, given: int = 0, end: bool = False
) -> None:
    """Raises ConfigError where clips of `frames` frames, the first `given` of them true frames, cannot be decoded with
    `context` frames before each, or the tokenizer does not decode with context.
    """
    if given >= frames:
        raise ConfigError(
            f"--given-frames (={given}) must be at most {frames - 1}: {_clips_of(frames)}, and one is to be decoded"
        )
    if context is not None and context >= frames:
        raise ConfigError(
            f"--context (={context}) must be at most {frames - 1}: {_clips_of(frames)}, and no frame has more before it"
        )
    if end and context == 0:
        raise ConfigError("--end has no effect with --context 0, which decodes frames independently: omit one of them")
    framing = tokenizer.spec.framing
    blank = np.zeros((1, 1, framing.height, framing.width, 3), np.uint8)
    _new_context_buffer(tokenizer, context, blank if given else None, blank[:, 0] if end else None)


def _clips_of(frames: int) -> str:
    return f"the clips have {frames} frame{'s' * (frames > 1)}"


def write_clips(paths: Sequence[Path], pieces: Iterable[np.ndarray], frame_rate: float) -> None:
    """Writes consecutive pieces uint8 [B, n, H, W, 3] into one file per clip."""
    with ExitStack() as stack:
        writers = [stack.enter_context(VideoWriter(path, frame_rate)) for path in paths]
        for piece in pieces:
            for writer, frames in zip(writers, piece, strict=True):
                writer.add(frames)


def decode_tokens(tokenizer: VideoTokenizer, tokens: Mapping[str, np.ndarray], **context: Any) -> np.ndarray:
    """Tokens by stream [B, t, h, w, q] -> uint8 [B, T, H, W, 3]. `context`: the keywords of `decode_pieces`."""
    return np.concatenate(list(decode_pieces(tokenizer, tokens, **context)), axis=1)


def decode_pieces(
    tokenizer: VideoTokenizer,
    tokens: Mapping[str, np.ndarray],
    context: int | None = None,
    given: np.ndarray | None = None,
    end: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Tokens by stream [B, t, h, w, q] -> the clips' frames in order, uint8 [B, n, H, W, 3] at a time.

    `given` uint8 [B, n, H, W, 3] are true first frames: they are yielded unchanged, and decoding starts after them. The
    context of a frame are up to `context` frames before it (None: the tokenizer's setting) and `end` uint8
    [B, H, W, 3]. Control streams are ignored. Raises ConfigError as `VideoTokenizer.new_context_buffer`.
    """
    context_buffer = _new_context_buffer(tokenizer, context, given, end)
    count = 0
    if given is not None:
        count = given.shape[1]
        yield given
    levels = tokenizer.spec.levels
    later = {level.name: tokens[level.name][:, tokenizer.spec.steps_of_frames(count, level) :] for level in levels}
    for piece in _pieces(tokenizer, later):
        yield _decode_piece(tokenizer, piece, context_buffer)


@torch.inference_mode()
def _new_context_buffer(
    tokenizer: VideoTokenizer, context: int | None, given: np.ndarray | None, end: np.ndarray | None
) -> Any:
    return tokenizer.new_context_buffer(
        context,
        None if given is None else _pixels(tokenizer, given),
        None if end is None else _pixels(tokenizer, end[:, None])[:, :, 0],
    )


def _pixels(tokenizer: VideoTokenizer, frames: np.ndarray) -> Tensor:
    return to_model(np.array(frames), tokenizer.device)  # copied, as it may be a read-only view


def _pieces(tokenizer: VideoTokenizer, tokens: Mapping[str, np.ndarray]) -> Iterator[Mapping[str, np.ndarray]]:
    """Parts of FRAMES_AT_ONCE frames for a framewise tokenizer, else all tokens at once."""
    clips, steps = next(iter(tokens.values())).shape[:2]
    if tokenizer.spec.time != "framewise":
        yield tokens
        return
    at_once = max(1, FRAMES_AT_ONCE // clips)
    for first in range(0, steps, at_once):
        yield {name: codes[:, first : first + at_once] for name, codes in tokens.items()}


@torch.inference_mode()
def _decode_piece(tokenizer: VideoTokenizer, tokens: Mapping[str, np.ndarray], context_buffer: Any) -> np.ndarray:
    indices = {name: torch.from_numpy(array.astype(np.int64)).to(tokenizer.device) for name, array in tokens.items()}
    return to_frames(tokenizer.decode(indices, context_buffer))
