"""Measures of a context autoencoder for CCVS's tables, on Tabletop, whose motion is known: autoregressive decoding from
a true first frame, flow, flicker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.pixels import to_frames, to_model
from tokenreel.data.tabletop.clip import TabletopClip, TabletopConfig, tabletop_clip
from tokenreel.decoders.context import decoder as context_decoder
from tokenreel.decoders.context.decoder import fuse
from tokenreel.decoders.context.flow import Flow
from tokenreel.metrics.consistency import Flicker
from tokenreel.metrics.reconstruction import ReconstructionScores, mean_image
from tokenreel.tokenizers.context_autoencoder import STREAM, ContextAutoencoder

HELD_OUT = 1_000_000  # index of the first clip that is scored; training uses the first ones
BATCH = 12  # clips


@dataclass(frozen=True)
class HeldOut:
    """Clips that no training sees, with their frames."""

    clips: list[TabletopClip]
    frames: np.ndarray  # uint8 [N, T, H, W, 3]
    mean: np.ndarray  # [H, W, 3], the mean image of other clips


def held_out(count: int, frames: int = 16, size: int = 64) -> HeldOut:
    config = TabletopConfig(height=size, width=size, frames=frames)
    clips = [tabletop_clip(config, HELD_OUT + index) for index in range(count)]
    mean = mean_image(tabletop_clip(config, HELD_OUT + count + index).frames for index in range(count))
    return HeldOut(clips, np.stack([clip.frames for clip in clips]), mean)


def decoded(tokenizer: ContextAutoencoder, true: np.ndarray, context: int) -> np.ndarray:
    """uint8 [N, T, H, W, 3]: the true first frame, and the others decoded; frame by frame if `context` is 0."""
    parts = [_decoded(tokenizer, true[first : first + BATCH], context) for first in range(0, len(true), BATCH)]
    return np.concatenate(parts)


@torch.inference_mode()
def _decoded(tokenizer: ContextAutoencoder, true: np.ndarray, context: int) -> np.ndarray:
    video = to_model(true)
    later = {STREAM: tokenizer.encode(video)[STREAM][:, 1:]}
    given = video[:, :, :1] if context else None
    rest = tokenizer.decode(later, tokenizer.new_context_buffer(context, given))
    return np.concatenate([true[:, :1], to_frames(rest)], 1)


def scores(data: HeldOut, video: np.ndarray) -> dict[str, float]:
    """PSNR and SSIM of the decoded frames, PSNR of moving pixels, and flicker."""
    pixels, flicker = ReconstructionScores(data.mean), Flicker()
    pixels.update(data.frames[:, 1:], video[:, 1:])
    flicker.update(data.frames[:, 1:], video[:, 1:])
    return {**pixels.compute(), "flicker": flicker.compute()}


def repeated(data: HeldOut) -> np.ndarray:
    """The true first frame repeated, uint8 [N, T, H, W, 3]."""
    return np.repeat(data.frames[:, :1], data.frames.shape[1], axis=1)


@contextmanager
def without_flow() -> Iterator[None]:
    """While active, the decoder fuses contexts without displacement; masks are unchanged."""

    def fuse_unwarped(features: Tensor, contexts: Tensor, flow: Flow) -> Tensor:
        return fuse(features, contexts, Flow(torch.zeros_like(flow.displacement), flow.logits))

    with mock.patch.object(context_decoder, "fuse", fuse_unwarped):
        yield


@torch.inference_mode()
def endpoint_errors(tokenizer: ContextAutoencoder, data: HeldOut) -> dict[str, float]:
    """Mean distance in pixels from the true flow: of the finest flow, and of no flow; over pixels that move and are
    visible in both frames.

    Tabletop's flow leads from frame t to t + 1, so frame t is decoded here with the true frame t + 1 as its context.
    """
    error, error_of_no_flow, pixels = 0.0, 0.0, 0
    for clip, frames in zip(data.clips, data.frames, strict=True):
        true = torch.from_numpy(clip.flow).movedim(-1, 1)  # [T-1, 2, H, W]
        judged = (true.norm(dim=1) > 0) & ~torch.from_numpy(clip.occluded)
        estimate = _flow(tokenizer, to_model(frames))
        error += float((estimate - true).norm(dim=1)[judged].sum())
        error_of_no_flow += float(true.norm(dim=1)[judged].sum())
        pixels += int(judged.sum())
    return {"endpoint_error": error / pixels, "endpoint_error_of_no_flow": error_of_no_flow / pixels}


def _flow(tokenizer: ContextAutoencoder, video: Tensor) -> Tensor:
    """Flow [T-1, 2, H, W] in pixels from each frame of `video` [3, T, H, W] to the next."""
    frames = video.transpose(0, 1)
    codes = tokenizer.encode(video[None])[STREAM][:, :-1]
    latents = tokenizer.quantizer.decode(codes)[0].transpose(0, 1)
    contexts = [level[:, None] for level in tokenizer.features(frames[1:])]
    return tokenizer.decoder(latents, contexts).flows[-1].displacement[:, 0]
