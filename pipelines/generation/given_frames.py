"""The frames that a person gives to `generate`: read, framed for the tokenizer, and encoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.pixels import to_model
from tokenreel.data.spec import END, Framing
from tokenreel.pipelines.decoding.true_frames import FileFrames, FrameRequest, frames_of_file
from tokenreel.tokenizers.base import VideoTokenizer


@dataclass(frozen=True)
class TrueFrames:
    """Frames of the original video, uint8, framed for the tokenizer."""

    first: np.ndarray  # [n, H, W, 3]; n may be 0
    end: np.ndarray | None  # [1, H, W, 3]

    def for_decoding(
        self, tokenizer: VideoTokenizer, context: int | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The given frames that are shown as they are [n, H, W, 3], and the end frame as context [H, W, 3]. None and
        None for a tokenizer that decodes without context: it decodes the given frames from their tokens.
        """
        given = self.first if tokenizer.context and len(self.first) else None
        end = self.end[0] if self.end is not None and tokenizer.context and context != 0 else None
        return given, end


def first_frames(framing: Framing, video: Path | None, count: int) -> FileFrames:
    """The first `count` frames of the file, framed and timed. Their rate is None where it is not
    known: without a resampled rate one frame, or none, has no rate.
    """
    if video is None:
        size = (framing.height, framing.width)
        return FileFrames(np.empty((0, *size, 3), np.uint8), framing.frame_rate, size)
    found = frames_of_file(FrameRequest("--video", str(video), np.arange(count), framing))
    return found._replace(frame_rate=framing.frame_rate or (found.frame_rate if count > 1 else None))


def end_frame(framing: Framing, end: Path, frames: int) -> FileFrames:
    """One frame: the picture `end`, or the last of the first `frames` frames of a video."""
    return frames_of_file(FrameRequest("--end", str(end), np.array([frames - 1]), framing))


@torch.inference_mode()
def encode_true_frames(tokenizer: VideoTokenizer, true_frames: TrueFrames) -> dict[str, Tensor]:
    """int64 [1, t, h, w, q] by stream: the levels of the given frames, and the end frame as `end`."""
    if len(true_frames.first):
        tokens = tokenizer.encode(to_model(true_frames.first[None], tokenizer.device))
    else:
        tokens = _no_tokens(tokenizer)
    if true_frames.end is None:
        return tokens
    (end,) = tokenizer.encode(to_model(true_frames.end[None], tokenizer.device)).values()
    return {**tokens, END: end}


def _no_tokens(tokenizer: VideoTokenizer) -> dict[str, Tensor]:
    """Zero code steps of each level: everything is generated."""
    return {
        level.name: torch.empty(1, 0, *level.shape[1:], dtype=torch.long, device=tokenizer.device)
        for level in tokenizer.spec.levels
    }
