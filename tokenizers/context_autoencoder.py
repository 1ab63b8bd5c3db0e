"""The context autoencoder of CCVS (Le Moing et al. 2021, section 3.2): each frame is encoded independently, and decoded
with earlier frames as context, so that few tokens per frame suffice.

Adversarial and perceptual losses are added by the training objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.decoders.context.augmented_views import (
    AugmentedViewConfig,
    AugmentedViews,
    make_augmented_views,
)
from tokenreel.decoders.context.autoregressive import ContextBuffer, decode_autoregressively
from tokenreel.decoders.context.contextual_loss import flow_loss, mask_loss
from tokenreel.decoders.context.decoder import ContextDecoder
from tokenreel.decoders.context.flow import Flow, FlowConfig
from tokenreel.decoders.layers.frames import fold_time, unfold_time
from tokenreel.errors import ConfigError
from tokenreel.sample_random import SampleRandom
from tokenreel.tokenizers.base import Reconstruction, Tokens, VideoTokenizer, token_grid
from tokenreel.tokenizers.encoders.pyramid_encoder import PyramidEncoder
from tokenreel.tokenizers.quantizers.base import AnyQuantizerConfig, build_quantizer
from tokenreel.tokenizers.quantizers.vq import VQConfig

STREAM = "video"


@dataclass(frozen=True)
class ContextAutoencoderConfig:
    type: ClassVar[str] = "context-autoencoder"
    decode_only_settings: ClassVar[tuple[str, ...]] = (
        *("flow", "augmented_views", "context", "keep_first", "autoregressive_frames"),
        *("reconstruction", "contextual", "consistency"),
    )

    # Equation 3 weights the commitment loss by beta = 0.25, the authors' code the codebook loss; here the codebook is
    # updated by moving averages, so there is only the commitment loss.
    quantizer: AnyQuantizerConfig = field(default_factory=lambda: VQConfig(codebook_size=1024, commitment=0.25))
    width: int = 128  # channels of the finest level
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)  # of the width, by level from pixels to tokens
    latent: int = 512  # D, channels of the vectors that are quantized
    flow: FlowConfig | None = field(default_factory=FlowConfig)  # None: frames are decoded without context
    augmented_views: AugmentedViewConfig | None = field(default_factory=AugmentedViewConfig)  # supervise the flow
    context: int = 15  # default number of context frames in decoding
    keep_first: int = 0  # of them, the first frames that are never dropped
    autoregressive_frames: int = 4  # length of the clips decoded autoregressively in training, after a true first frame
    reconstruction: float = 10.0  # weight of the L1 loss of pixels (lambda_r)
    contextual: float = 1.0  # weight of the loss of flow and mask on augmented views (lambda_c)
    consistency: float = 0.0  # weight of the L1 loss of differences between successive frames; CCVS: 0

    def __post_init__(self) -> None:
        if min(self.width, self.latent, *self.multipliers) < 1 or len(self.multipliers) < 2:
            raise ConfigError(f"width, latent and at least 2 multipliers must be at least 1, got {self}")
        if self.context < 0 or not 0 <= self.keep_first <= max(self.context - 1, 0):
            raise ConfigError(
                f"context (={self.context}) must be at least 0, and keep_first (={self.keep_first}) from 0 to below it"
            )
        if self.autoregressive_frames < 2:
            raise ConfigError(
                f"autoregressive_frames (={self.autoregressive_frames}) must be at least 2: a true and a decoded frame"
            )

    @property
    def widths(self) -> list[int]:
        """Channels by level, coarse to fine."""
        return [self.width * multiplier for multiplier in reversed(self.multipliers)]


@dataclass
class _EncodedClips:
    """Consecutive frames, encoded and quantized."""

    latents: Tensor  # [B, D, n, h, w], quantized
    features: list[Tensor]  # by level, coarse to fine: [B, n, C, h, w]

    def features_of(self, frame: int) -> list[Tensor]:
        return [level[:, frame] for level in self.features]


class ContextAutoencoder(VideoTokenizer):
    """One stream `video` of t = T code steps, each the h x w x q tokens of one frame."""

    config: ContextAutoencoderConfig
    config_class: ClassVar[type[Any]] = ContextAutoencoderConfig
    decode_only_modules: ClassVar[tuple[str, ...]] = ("decoder",)

    def __init__(self, config: ContextAutoencoderConfig, frames: int, framing: Framing) -> None:
        if config.flow and frames < 2:
            raise ConfigError(f"frames (={frames}) must be at least 2: the flow is learned between frames of a clip")
        quantizer = build_quantizer(config.quantizer, config.latent)
        grid = (frames, *token_grid(framing, 2 ** (len(config.multipliers) - 1)))
        stream = StreamSpec(STREAM, grid, codebook_size=quantizer.codebook_size, codebooks=quantizer.codebooks)
        super().__init__(config, TokenSpec((stream,), frames, framing, time="framewise"))
        self.encoder = PyramidEncoder(config.widths, config.latent)
        self.quantizer = quantizer
        self.decoder = ContextDecoder(config.latent, config.widths, config.flow)

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.project_out.weight

    @property
    def context(self) -> int:
        return self.config.context if self.config.flow else 0

    def encode(self, video: Tensor) -> Tokens:
        self.require_framing(video)
        latents, _ = self.encoder(fold_time(video))
        return {STREAM: self.quantizer.encode(unfold_time(latents, len(video)))}

    def decode(self, tokens: Mapping[str, Tensor], context_buffer: ContextBuffer | None = None) -> Tensor:
        """Without a `context_buffer` the first frame is decoded without context, each later one with up to
        `config.context` frames. The buffer is updated, so that a long video can be decoded in pieces.
        """
        context_buffer = self.new_context_buffer() if context_buffer is None else context_buffer
        return self._decode_latents(self.quantizer.decode(tokens[STREAM]), context_buffer).float().clamp(-1, 1)

    def _decode_latents(self, latents: Tensor, context_buffer: ContextBuffer) -> Tensor:
        """[B, D, T, h, w] -> [B, 3, T, H, W]"""
        if not context_buffer.capacity and context_buffer.end is None:  # all frames at once
            return unfold_time(self.decoder(fold_time(latents)).pixels, len(latents))
        steps = decode_autoregressively(self.decoder, self.features, latents, context_buffer)
        return torch.stack([decoded.pixels for decoded in steps], 2)

    def new_context_buffer(
        self, context: int | None = None, given: Tensor | None = None, end: Tensor | None = None
    ) -> ContextBuffer:
        """A context buffer for `decode`: up to `context` frames (None: `config.context`, 0: frames are decoded
        independently), at first the true frames `given` [B, 3, n, H, W], and in addition a true `end` frame
        [B, 3, H, W].

        Raises ConfigError if context or an end frame is requested of an autoencoder without a flow module, and for
        frames of another size than the spec's.
        """
        context = self.context if context is None else context
        if not self.config.flow and (context or end is not None):
            raise ConfigError(
                f"context (={context}) must be 0, without end frame: this tokenizer was built without flow"
            )
        if given is not None:
            self.require_framing(given, "given")
        if end is not None:
            self.require_framing(end[:, :, None], "end, as a clip of one frame")
        keep_first = min(self.config.keep_first, max(context - 1, 0))
        context_buffer = ContextBuffer(context, keep_first, None if end is None else self.features(end))
        for frame in () if given is None else given.unbind(2):
            context_buffer.push(self.features(frame))
        return context_buffer

    def features(self, frames: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> features with which they are context of other frames, by level, coarse to fine."""
        _, features = self.encoder(frames)
        return self._shared(features)

    def _shared(self, features: list[Tensor]) -> list[Tensor]:
        return [level[:, :shared] for level, shared in zip(features, self.decoder.shared, strict=True)]

    @property
    def min_training_frames(self) -> int:
        """With flow it also learns to decode frames from the ones before them."""
        return min(self.config.autoregressive_frames, self.spec.frames) if self.config.flow else 1

    def forward(self, video: Tensor, random: SampleRandom | None = None) -> Reconstruction:
        """Decodes consecutive frames autoregressively, and single frames without context, with another frame as context
        and with an augmented view of themselves (CCVS alternates between training on pairs and on consecutive frames;
        here a step has all of them).

        A run is of successive frames, as in the paper; CCVS's code takes every s-th frame, s random from 1 to 9. The
        other frame may be any of the clip; in that code any of 30 or 32.
        """
        if not self.training or not self.config.flow:
            return self._reconstruct(video)
        random = random or SampleRandom.unrepeatable(len(video), video.device)
        length = min(self.config.autoregressive_frames, video.shape[2])
        first = random.randint(video.shape[2] - length + 1)
        clips = _frames_at(video, first[:, None] + torch.arange(length, device=video.device)).transpose(1, 2)
        encoded, losses, counts = self._encode_clips(clips)
        decoded = self._decode_clips(clips, encoded)
        frames, contextual = self._decode_frames(video, first, encoded, random)
        errors = decoded - clips
        pixels = errors[:, :, 1:].abs().mean() + (frames[0] - frames[1]).abs().mean()
        losses = {"reconstruction": self.config.reconstruction * pixels / 2, **contextual, **losses}
        if self.config.consistency:
            losses["consistency"] = self.config.consistency * errors.diff(dim=2).abs().mean()
        return Reconstruction(decoded, losses, counts, frames, (decoded, clips))

    def _reconstruct(self, video: Tensor) -> Reconstruction:
        encoded, losses, counts = self._encode_clips(video)
        pixels = self._decode_latents(encoded.latents, self.new_context_buffer())
        losses = {"reconstruction": self.config.reconstruction * functional.l1_loss(pixels, video), **losses}
        return Reconstruction(pixels, losses, counts)

    def _encode_clips(self, video: Tensor) -> tuple[_EncodedClips, dict[str, Tensor], dict[str, Tensor]]:
        self.require_framing(video)
        latents, features = self.encoder(fold_time(video))
        quantized = self.quantizer(unfold_time(latents, len(video)))
        levels = [level.unflatten(0, (len(video), -1)) for level in self._shared(features)]
        return _EncodedClips(quantized.latents, levels), quantized.losses, {STREAM: quantized.code_counts}

    def _decode_clips(self, clips: Tensor, encoded: _EncodedClips) -> Tensor:
        """[B, 3, n, H, W]: the true first frame, then each frame decoded with all earlier ones as context."""
        context_buffer = ContextBuffer(clips.shape[2] - 1)
        context_buffer.push(encoded.features_of(0))
        latents = encoded.latents[:, :, 1:]
        steps = decode_autoregressively(self.decoder, self._detached_features, latents, context_buffer)
        return torch.stack([clips[:, :, 0], *(decoded.pixels for decoded in steps)], 2)

    def _detached_features(self, frames: Tensor) -> list[Tensor]:
        """Features of decoded frames without gradients to them: a later frame's loss would otherwise keep the graph of
        every earlier frame, most of the memory of a step.
        """
        return self.features(frames.detach())

    def _decode_frames(
        self, video: Tensor, first: Tensor, encoded: _EncodedClips, random: SampleRandom
    ) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """Decodes one frame of each clip, out of the encoded ones that begin at frame `first` [B], without context and
        with another frame of the clip, and one or more with an augmented view of themselves.

        Returns decoded and true frames [N, 3, H, W] (with `flow_only` without those decoded with a view), and the
        losses of flows and masks.
        """
        length, config = encoded.latents.shape[2], self.config.augmented_views
        chosen, others = random.randint(length), random.randint(video.shape[2] - 1)
        target, latents = _frames_at(video, first + chosen), _frames_at(encoded.latents, chosen)
        another = _frames_at(video, (first + chosen + 1 + others) % video.shape[2])
        alone = self.decoder(latents).pixels
        if config is None:
            paired = self.decoder(latents, _as_context(self.features(another))).pixels
            return (torch.cat([alone, paired]), target.repeat(2, 1, 1, 1)), {}
        viewed = [(chosen + step) % length for step in range(min(config.frames_per_clip, length))]
        targets = torch.cat([_frames_at(video, first + frame) for frame in viewed])
        background = video.median(dim=2).values.repeat(len(viewed), 1, 1, 1) if config.object_motion else None
        views = make_augmented_views(targets, config, random.fork(len(viewed)), background)
        latents = torch.cat([latents, *(_frames_at(encoded.latents, frame) for frame in viewed)])
        decoded = self.decoder(latents, _as_context(self.features(torch.cat([another, views.context]))))
        losses = self._contextual_losses([flow.last(len(targets)) for flow in decoded.flows], views, config)
        pixels, true = torch.cat([alone, decoded.pixels]), torch.cat([target, target, targets])
        count = 2 * len(target) if config.flow_only else len(true)
        return (pixels[:count], true[:count]), losses

    def _contextual_losses(
        self, flows: list[Flow], views: AugmentedViews, config: AugmentedViewConfig
    ) -> dict[str, Tensor]:
        """The losses of equation 7, by name."""
        losses = {"flow": flow_loss([flow.displacement[:, 0] for flow in flows], views)}
        if not config.flow_only:
            losses["mask"] = mask_loss([flow.logits[:, 0] for flow in flows], views.occluded)
        return {name: self.config.contextual * loss for name, loss in losses.items()}


def _frames_at(video: Tensor, frames: Tensor) -> Tensor:
    """[B, C, T, h, w] at `frames`, int64 [B] or [B, n] -> [B, C, h, w] or [B, n, C, h, w]."""
    rows = torch.arange(len(video), device=video.device).view(-1, *[1] * (frames.ndim - 1))
    return video.transpose(1, 2)[rows, frames]


def _as_context(features: list[Tensor]) -> list[Tensor]:
    """Features [N, C, h, w] by level of one context frame for each of N frames, as the decoder takes them:
    [N, 1, C, h, w].
    """
    return [level[:, None] for level in features]
