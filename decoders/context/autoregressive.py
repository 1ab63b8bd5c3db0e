"""Autoregressive decoding (CCVS section 3.1): decode a frame, encode it, and let the next frames use it as context.

The encoder is not known here: features of a frame come from a function that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from tokenreel.decoders.context.decoder import ContextDecoder, Decoded
from tokenreel.errors import ConfigError

Pyramid = Sequence[Tensor]  # features of frames by level, coarse to fine: [N, C, h, w] each


class ContextBuffer:
    """The last frames pushed, at most `capacity`. When it is full the oldest goes, but the first `keep_first` stay
    (CCVS keeps 8 of 15 for drums); an `end` frame that lies ahead is one context more and never goes.
    """

    def __init__(self, capacity: int, keep_first: int = 0, end: Pyramid | None = None) -> None:
        if capacity < 0:
            raise ConfigError(f"context (={capacity}) must be 0 (frame by frame) or a number of frames")
        if not 0 <= keep_first <= max(capacity - 1, 0):
            raise ConfigError(
                f"keep_first (={keep_first}) must leave room for the newest frame in a context of {capacity} frames"
            )
        self.capacity, self.keep_first, self.end = capacity, keep_first, end
        self._frames: list[Pyramid] = []

    def __len__(self) -> int:
        return len(self._frames)

    def push(self, features: Pyramid) -> None:
        """Takes in the newest frame and shifts an older one out where there is no room."""
        if len(self._frames) == self.capacity and self.capacity:
            del self._frames[self.keep_first]
        if self.capacity:
            self._frames.append(features)

    def contexts(self) -> list[Tensor] | None:
        """By level, coarse to fine: [N, k, C, h, w], the newest frame first; None where nothing is known."""
        frames = self._frames[::-1] + ([] if self.end is None else [self.end])
        return [torch.stack(level, 1) for level in zip(*frames, strict=True)] if frames else None


Features = Callable[[Tensor], Pyramid]  # frames [N, 3, H, W] -> what the encoder makes of them on its way


def decode_autoregressively(
    decoder: ContextDecoder, features: Features, latents: Tensor, memory: ContextBuffer
) -> Iterator[Decoded]:
    """Decodes the frames of latents [B, D, T, h, w] one after the other, each seeing what `memory` holds by then.

    The memory is left as the frame after the last one needs it, so that a video can be decoded in pieces.
    """
    for latent in latents.unbind(2):
        decoded = decoder(latent, memory.contexts())
        if memory.capacity:
            memory.push(features(decoded.pixels))
        yield decoded
