"""Autoregressive decoding (CCVS section 3.1): decode a frame, encode it again, use it as context for the next frames.

The encoder is a parameter: a function from frames to their features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from tokenreel.decoders.context.decoder import ContextDecoder, Decoded
from tokenreel.errors import ConfigError

Pyramid = Sequence[Tensor]  # features of frames by level, coarse to fine: [N, C, h, w] each
FeatureEncoder = Callable[[Tensor], Pyramid]  # frames [N, 3, H, W] -> their features


class ContextBuffer:
    """The features of the last frames pushed, at most `capacity`. When full it drops the oldest, except that the first
    `keep_first` stay (CCVS keeps 8 of 15 for drums). Those of an `end` frame are one context more and always stay.

    Raises ConfigError for a negative capacity and for a `keep_first` that leaves no room for the newest frame.
    """

    def __init__(self, capacity: int, keep_first: int = 0, end: Pyramid | None = None) -> None:
        if capacity < 0:
            raise ConfigError(f"context (={capacity}) must be 0 (decode frames independently) or a number of frames")
        if not 0 <= keep_first <= max(capacity - 1, 0):
            raise ConfigError(
                f"keep_first (={keep_first}) must leave room for the newest frame in a context of {capacity} frames"
            )
        self.capacity, self.keep_first, self.end = capacity, keep_first, end
        self._frames: list[Pyramid] = []

    def __len__(self) -> int:
        return len(self._frames)

    def push(self, features: Pyramid) -> None:
        """Adds the newest frame, and drops an older one if the buffer is full."""
        if len(self._frames) == self.capacity and self.capacity:
            del self._frames[self.keep_first]
        if self.capacity:
            self._frames.append(features)

    def contexts(self) -> list[Tensor] | None:
        """Features by level, coarse to fine: [N, k, C, h, w], the newest frame first; None if there are none."""
        frames = self._frames[::-1] + ([] if self.end is None else [self.end])
        return [torch.stack(level, 1) for level in zip(*frames, strict=True)] if frames else None


def decode_autoregressively(
    decoder: ContextDecoder, features: FeatureEncoder, latents: Tensor, context_buffer: ContextBuffer
) -> Iterator[Decoded]:
    """Decodes the frames of latents [B, D, T, h, w] in order, each with the frames in the buffer as context.

    The buffer is updated in place, so that a video can be decoded in pieces.
    """
    for latent in latents.unbind(2):
        decoded = decoder(latent, context_buffer.contexts())
        if context_buffer.capacity:
            context_buffer.push(features(decoded.pixels))
        yield decoded
