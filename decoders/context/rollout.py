"""The doubly autoregressive loop of CCVS (section 3.1): decode a frame, encode it, let the next ones look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from tokenreel.decoders.context.decoder import ContextDecoder, Decoded
from tokenreel.decoders.context.memory import ContextMemory, Pyramid

Features = Callable[[Tensor], Pyramid]  # frames [N, 3, H, W] -> what the encoder makes of them on its way


def roll_out(decoder: ContextDecoder, features: Features, latents: Tensor, memory: ContextMemory) -> Iterator[Decoded]:
    """Decodes the frames of latents [B, D, T, h, w] one after the other, each seeing what `memory` holds by then.

    The memory is left as the frame after the last one needs it, so that a video can be decoded in pieces.
    """
    for latent in latents.unbind(2):
        decoded = decoder(latent, memory.contexts())
        if memory.capacity:
            memory.push(features(decoded.pixels))
        yield decoded
