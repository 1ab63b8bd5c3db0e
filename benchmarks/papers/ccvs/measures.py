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

HELD_OUT = 1_000_000  # index of the first clip that is judged; training takes the first ones
AT_ONCE = 12  # clips


@dataclass(frozen=True)
class HeldOut:
    """Clips that no training sees, with what they are."""

    clips: list[TabletopClip]
    frames: np.ndarray  # uint8 [N, T, H, W, 3]
    mean: np.ndarray  # [H, W, 3], of other clips


def held_out(count: int, frames: int = 16, size: int = 64) -> HeldOut:
    config = TabletopConfig(height=size, width=size, frames=frames)
    clips = [tabletop_clip(config, HELD_OUT + index) for index in range(count)]
    mean = mean_image(tabletop_clip(config, HELD_OUT + count + index).frames for index in range(count))
    return HeldOut(clips, np.stack([clip.frames for clip in clips]), mean)


def decoded(tokenizer: ContextAutoencoder, true: np.ndarray, context: int) -> np.ndarray:
    """uint8 [N, T, H, W, 3]: the first frame as it is, the others from their codes; `context` 0: frame by frame."""
    parts = [_decoded(tokenizer, true[first : first + AT_ONCE], context) for first in range(0, len(true), AT_ONCE)]
    return np.concatenate(parts)


@torch.inference_mode()
def _decoded(tokenizer: ContextAutoencoder, true: np.ndarray, context: int) -> np.ndarray:
    video = to_model(true)
    later = {STREAM: tokenizer.encode(video)[STREAM][:, 1:]}
    known = video[:, :, :1] if context else None
    rest = tokenizer.decode(later, tokenizer.new_context_buffer(context, known))
    return np.concatenate([true[:, :1], to_frames(rest)], 1)


def scores(data: HeldOut, video: np.ndarray) -> dict[str, float]:
    """PSNR and SSIM over the decoded frames, PSNR where something moves in the clip, and flicker."""
    pixels, flicker = ReconstructionScores(data.mean), Flicker()
    pixels.update(data.frames[:, 1:], video[:, 1:])
    flicker.update(data.frames[:, 1:], video[:, 1:])
    return {**pixels.compute(), "flicker": flicker.compute()}


def repeated(data: HeldOut) -> np.ndarray:
    """The true first frame, again and again."""
    return np.repeat(data.frames[:, :1], data.frames.shape[1], axis=1)


@contextmanager
def without_flow() -> Iterator[None]:
    """Within it contexts are mixed in where they lie: masks as they are, every displacement 0."""

    def fuse_in_place(features: Tensor, contexts: Tensor, flow: Flow) -> Tensor:
        return fuse(features, contexts, Flow(torch.zeros_like(flow.displacement), flow.logits))

    with mock.patch.object(context_decoder, "fuse", fuse_in_place):
        yield


@torch.inference_mode()
def endpoint_errors(tokenizer: ContextAutoencoder, data: HeldOut) -> dict[str, float]:
    """Mean distance in pixels between the finest flow and the true one, and of no flow at all, over pixels that
    move and are to be seen in both frames.

    Tabletop's flow leads from frame t to t + 1, so frame t is decoded here with the true frame t + 1 as its context.
    """
    found, nothing, pixels = 0.0, 0.0, 0
    for clip, frames in zip(data.clips, data.frames, strict=True):
        true = torch.from_numpy(clip.flow).movedim(-1, 1)  # [T-1, 2, H, W]
        judged = (true.norm(dim=1) > 0) & ~torch.from_numpy(clip.occluded)
        estimate = _flow(tokenizer, to_model(frames))
        found += float((estimate - true).norm(dim=1)[judged].sum())
        nothing += float(true.norm(dim=1)[judged].sum())
        pixels += int(judged.sum())
    return {"endpoint_error": found / pixels, "endpoint_error_of_no_flow": nothing / pixels}


def _flow(tokenizer: ContextAutoencoder, video: Tensor) -> Tensor:
    """[T-1, 2, H, W] out of [3, T, H, W]: from each frame to the next one, in pixels."""
    pictures = video.transpose(0, 1)
    codes = tokenizer.encode(video[None])[STREAM][:, :-1]
    latents = tokenizer.quantizer.decode(codes)[0].transpose(0, 1)
    contexts = [level[:, None] for level in tokenizer.features(pictures[1:])]
    return tokenizer.decoder(latents, contexts).flows[-1].displacement[:, 0]
