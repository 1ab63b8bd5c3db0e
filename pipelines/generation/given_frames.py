"""The frames that a person gives to `generate`: read, framed as the tokenizer takes them, and encoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.pixels import to_model
from tokenreel.data.spec import END
from tokenreel.data.video.reader import DecodeFailure
from tokenreel.errors import ConfigError
from tokenreel.pipelines.decoding.true_frames import Wanted, frames_of_file
from tokenreel.tokenizers.base import VideoTokenizer


@dataclass(frozen=True)
class Seen:
    """True frames of what is to be made, uint8, framed as the tokenizer takes them."""

    first: np.ndarray  # [n, H, W, 3]; n may be 0
    end: np.ndarray | None  # [1, H, W, 3]

    def in_decoding(
        self, tokenizer: VideoTokenizer, context: int | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Those that are shown as they are [n, H, W, 3], and the one that helps from ahead [H, W, 3]: of a tokenizer
        that decodes without context none, for its codes have all that it can tell.
        """
        known = self.first if tokenizer.context and len(self.first) else None
        return known, self.end[0] if self.end is not None and tokenizer.context and context != 0 else None


def first_frames(tokenizer: VideoTokenizer, video: Path | None, count: int) -> np.ndarray:
    """uint8 [count, H, W, 3]: the first frames of the file, framed and timed as the tokenizer takes them."""
    framing = tokenizer.spec.framing
    if not count:
        return np.empty((0, framing.height, framing.width, 3), np.uint8)
    if video is None:
        raise ConfigError(f"--prime {count} needs --video, whose first frames are given: name one, or say --prime 0")
    return frames_of_file(Wanted("--video", str(video), np.arange(count), framing))


def given_rate(tokenizer: VideoTokenizer, video: Path | None, count: int) -> float | None:
    """Frames a second of the first `count` frames, as the tokenizer sees them; None where that cannot be said."""
    resampled = tokenizer.spec.framing.frame_rate
    if resampled or video is None or count < 2:
        return resampled
    with DecodePool(str(video), workers=1) as pool:
        probe = next(iter(pool.probe([0])))
    return None if isinstance(probe, DecodeFailure) else probe.frame_rate  # reading its frames says what is wrong


def end_frame(tokenizer: VideoTokenizer, end: Path | None, frames: int) -> np.ndarray | None:
    """uint8 [1, H, W, 3]: the picture `end`, or the frame of a video that is the last one of its first `frames`."""
    if end is None:
        return None
    return frames_of_file(Wanted("--end", str(end), np.array([frames - 1]), tokenizer.spec.framing))


@torch.inference_mode()
def codes_of_frames(tokenizer: VideoTokenizer, seen: Seen) -> dict[str, Tensor]:
    """Of the first frames as a clip, by level, and of the end frame as `end`."""
    device = next(tokenizer.parameters()).device
    tokens = tokenizer.encode(to_model(seen.first[None], device)) if len(seen.first) else empty_tokens(tokenizer)
    if seen.end is None:
        return tokens
    (codes,) = tokenizer.encode(to_model(seen.end[None], device)).values()
    return {**tokens, END: codes}


def empty_tokens(tokenizer: VideoTokenizer) -> dict[str, Tensor]:
    """No code step at all of each level: everything is to be drawn."""
    device = next(tokenizer.parameters()).device
    return {
        level.name: torch.empty(1, 0, *level.shape[1:], dtype=torch.long, device=device)
        for level in tokenizer.spec.levels
    }
