"""The context-aware autoencoder of CCVS (Le Moing et al. 2021, section 3.2): each frame coded on its own, and decoded
with the help of the frames before it, so that the codes need not say what those show already.

Few codes a frame are enough then. It knows nothing of priors; adversarial and perceptual losses come from training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.decoders.context.augmented_views import View, ViewConfig, make_view
from tokenreel.decoders.context.autoregressive import ContextBuffer, decode_autoregressively
from tokenreel.decoders.context.contextual_loss import flow_loss, mask_loss
from tokenreel.decoders.context.decoder import ContextDecoder
from tokenreel.decoders.context.flow import Flow, FlowConfig
from tokenreel.errors import ConfigError
from tokenreel.tokenizers.base import Reconstruction, Tokens, VideoTokenizer, code_grid
from tokenreel.tokenizers.encoders.pyramid_encoder import PyramidEncoder
from tokenreel.tokenizers.quantizers.base import AnyQuantizerConfig, build_quantizer
from tokenreel.tokenizers.quantizers.vq import VQConfig

STREAM = "video"


@dataclass(frozen=True)
class ContextAutoencoderConfig:
    type: ClassVar[str] = "context-autoencoder"

    # Equation 3 has beta = 0.25 at the commitment loss, the authors' code at the codebook's; here the codebook follows
    # by moving averages, and the commitment loss is the only one that is left.
    quantizer: AnyQuantizerConfig = field(default_factory=lambda: VQConfig(codebook_size=1024, commitment=0.25))
    width: int = 128  # channels of the finest level
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)  # of the width, by level from pixels to codes
    latent: int = 512  # D, channels of the vectors that are quantized
    flow: FlowConfig | None = field(default_factory=FlowConfig)  # None: every frame is decoded on its own
    views: ViewConfig | None = field(default_factory=ViewConfig)  # self-supervision of the flow; None: without
    context: int = 15  # frames that a frame is decoded with, unless the caller says otherwise
    keep_first: int = 0  # of them, those that stay for good
    run: int = 4  # frames that are decoded one from the other in training, from a true one on
    reconstruction: float = 10.0  # weight of the L1 loss of pixels; lambda_r
    contextual: float = 1.0  # weight of the loss of the flow on augmented views; lambda_c
    consistency: float = 0.0  # weight of the L1 loss of changes from frame to frame, with a flow; CCVS: 0

    def __post_init__(self) -> None:
        if min(self.width, self.latent, *self.multipliers) < 1 or len(self.multipliers) < 2:
            raise ConfigError(f"width, latent and at least 2 multipliers must be at least 1, got {self}")
        if self.context < 0 or not 0 <= self.keep_first <= max(self.context - 1, 0):
            raise ConfigError(
                f"context (={self.context}) must be 0 or more, keep_first (={self.keep_first}) below it, at least 0"
            )
        if self.run < 2:
            raise ConfigError(f"run (={self.run}) must be at least 2: a true frame, and one that is decoded from it")

    @property
    def widths(self) -> list[int]:
        """Channels by level, coarse to fine."""
        return [self.width * multiplier for multiplier in reversed(self.multipliers)]


@dataclass
class _Coded:
    """A run of frames as the encoder and quantizer see them."""

    latents: Tensor  # [B, D, n, h, w], quantized
    features: list[Tensor]  # by level, coarse to fine: [B, n, C, h, w]

    def of_frame(self, frame: int) -> list[Tensor]:
        return [level[:, frame] for level in self.features]


class ContextAutoencoder(VideoTokenizer):
    """One stream `video` of t = T code steps, each the h x w x q codes of one frame."""

    config: ContextAutoencoderConfig
    config_class: ClassVar[type[Any]] = ContextAutoencoderConfig
    decode_only_modules: ClassVar[tuple[str, ...]] = ("decoder",)
    decode_only_settings: ClassVar[tuple[str, ...]] = (
        *("flow", "views", "context", "keep_first", "run", "reconstruction", "contextual", "consistency"),
    )

    def __init__(self, config: ContextAutoencoderConfig, frames: int, framing: Framing) -> None:
        if config.flow and frames < 2:
            raise ConfigError(f"frames (={frames}) must be at least 2: flow is learnt between frames of a clip")
        quantizer = build_quantizer(config.quantizer, config.latent)
        grid = (frames, *code_grid(framing, 2 ** (len(config.multipliers) - 1)))
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
        frames = self._frames(video)
        latents, _ = self.encoder(frames)
        return {STREAM: self.quantizer.encode(_clips(latents, len(video)))}

    def decode(self, tokens: Mapping[str, Tensor], memory: ContextBuffer | None = None) -> Tensor:
        """Without a `memory` the first frame is decoded alone, and up to `config.context` frames help each later one.

        The memory moves on with the frames, so that a long video can be decoded in pieces.
        """
        memory = self.new_memory() if memory is None else memory
        return self._decode_latents(self.quantizer.decode(tokens[STREAM]), memory).float().clamp(-1, 1)

    def _decode_latents(self, latents: Tensor, memory: ContextBuffer) -> Tensor:
        """[B, D, T, h, w] -> [B, 3, T, H, W]."""
        if not memory.capacity and memory.end is None:  # all frames at once
            return _clips(self.decoder(latents.transpose(1, 2).flatten(0, 1)).pixels, len(latents))
        steps = decode_autoregressively(self.decoder, self.features, latents, memory)
        return torch.stack([decoded.pixels for decoded in steps], 2)

    def new_memory(
        self, context: int | None = None, known: Tensor | None = None, end: Tensor | None = None
    ) -> ContextBuffer:
        """What `decode` goes on from: up to `context` frames (None: `config.context`, 0: frame by frame), of which
        `known` [B, 3, n, H, W] are there already; `end` [B, 3, H, W] is a frame that lies ahead.

        Raises ConfigError where context or an end frame is wanted of an autoencoder without a flow module, and for
        frames of another size than the spec's.
        """
        context = self.context if context is None else context
        if not self.config.flow and (context or end is not None):
            raise ConfigError(
                f"context (={context}) must be 0, without end frame: this tokenizer was built without flow"
            )
        if known is not None:
            self.require_framing(known, "known")
        if end is not None:
            self.require_framing(end[:, :, None], "end, as a clip of one frame")
        keep_first = min(self.config.keep_first, max(context - 1, 0))
        memory = ContextBuffer(context, keep_first, None if end is None else self.features(end))
        for frame in () if known is None else known.unbind(2):
            memory.push(self.features(frame))
        return memory

    def features(self, frames: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> what other frames may look at, by level, coarse to fine."""
        _, features = self.encoder(frames)
        return self._shared(features)

    def _shared(self, features: list[Tensor]) -> list[Tensor]:
        return [level[:, :shared] for level, shared in zip(features, self.decoder.shared, strict=True)]

    def _frames(self, video: Tensor) -> Tensor:
        self.require_framing(video)
        return video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)

    def forward(self, video: Tensor) -> Reconstruction:
        """Decodes a run of frames one from the other, and single frames with another frame, with an augmented view of
        themselves and with nothing (CCVS trains on pairs and on runs in turn; here a step has all of them).
        """
        if not self.training or not self.config.flow:
            return self._reconstruct(video)
        first = int(torch.randint(max(1, video.shape[2] - self.config.run + 1), ()))
        run = video[:, :, first : first + self.config.run]
        coded, losses, counts = self._coded(run)
        decoded_run = self._decode_run(run, coded)
        pictures, contextual = self._decode_pictures(video, first, coded)
        errors = decoded_run - run
        pixels = errors[:, :, 1:].abs().mean() + (pictures[0] - pictures[1]).abs().mean()
        losses = {"reconstruction": self.config.reconstruction * pixels / 2, **contextual, **losses}
        if self.config.consistency:
            losses["consistency"] = self.config.consistency * errors.diff(dim=2).abs().mean()
        return Reconstruction(decoded_run, losses, counts, pictures, (decoded_run, run))

    def _reconstruct(self, video: Tensor) -> Reconstruction:
        coded, losses, counts = self._coded(video)
        pixels = self._decode_latents(coded.latents, self.new_memory())
        losses = {"reconstruction": self.config.reconstruction * functional.l1_loss(pixels, video), **losses}
        return Reconstruction(pixels, losses, counts)

    def _coded(self, video: Tensor) -> tuple[_Coded, dict[str, Tensor], dict[str, Tensor]]:
        latents, features = self.encoder(self._frames(video))
        quantized = self.quantizer(_clips(latents, len(video)))
        levels = [level.unflatten(0, (len(video), -1)) for level in self._shared(features)]
        return _Coded(quantized.latents, levels), quantized.losses, {STREAM: quantized.code_counts}

    def _decode_run(self, run: Tensor, coded: _Coded) -> Tensor:
        """[B, 3, n, H, W]: the true first frame, then each frame decoded with all those before it."""
        memory = ContextBuffer(run.shape[2] - 1)
        memory.push(coded.of_frame(0))
        steps = decode_autoregressively(self.decoder, self._features_for_next, coded.latents[:, :, 1:], memory)
        return torch.stack([run[:, :, 0], *(decoded.pixels for decoded in steps)], 2)

    def _features_for_next(self, frames: Tensor) -> list[Tensor]:
        """A decoded frame is context like any other: a later frame's loss does not reach what drew it, which in a long
        chain of frames would be most of the memory of a step.
        """
        return self.features(frames.detach())

    def _decode_pictures(
        self, video: Tensor, first: int, coded: _Coded
    ) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """One frame of each clip, out of the run that begins at frame `first`, decoded alone and with another frame of
        the clip, and one or more with an augmented view of themselves: [N, 3, H, W] decoded and true (those with a view
        only where views teach more than flows), and the losses of flows and masks.
        """
        length, run = video.shape[2], coded.latents.shape[2]
        chosen = int(torch.randint(run, ()))
        target, latents = video[:, :, first + chosen], coded.latents[:, :, chosen]
        another = video[:, :, (first + chosen + 1 + int(torch.randint(length - 1, ()))) % length]
        alone = self.decoder(latents).pixels
        if self.config.views is None:
            paired = self.decoder(latents, _single(self.features(another))).pixels
            return (torch.cat([alone, paired]), target.repeat(2, 1, 1, 1)), {}
        viewed = [(chosen + step) % run for step in range(min(self.config.views.per_clip, run))]
        targets = torch.cat([video[:, :, first + frame] for frame in viewed])
        still = _still(video).repeat(len(viewed), 1, 1, 1) if self.config.views.moving else None
        view = make_view(targets, self.config.views, None, still)
        every = torch.cat([latents, *(coded.latents[:, :, frame] for frame in viewed)])
        decoded = self.decoder(every, _single(self.features(torch.cat([another, view.context]))))
        losses = self._contextual([flow.of_last(len(targets)) for flow in decoded.flows], view)
        drawn, true = torch.cat([alone, decoded.pixels]), torch.cat([target, target, targets])
        judged = 2 * len(target) if self.config.views.flow_only else len(true)
        return (drawn[:judged], true[:judged]), losses

    def _contextual(self, flows: list[Flow], view: View) -> dict[str, Tensor]:
        """Equation 7."""
        losses = {"flow": flow_loss([flow.displacement[:, 0] for flow in flows], view)}
        if self.config.views and not self.config.views.flow_only:
            losses["mask"] = mask_loss([flow.logits[:, 0] for flow in flows], view.occluded)
        return {name: self.config.contextual * loss for name, loss in losses.items()}


def _still(video: Tensor) -> Tensor:
    """What a clip [B, 3, T, H, W] shows most of the time: [B, 3, H, W], the median of each pixel."""
    return video.median(dim=2).values


def _single(features: list[Tensor]) -> list[Tensor]:
    """Features of one frame as the contexts that a decoder takes: [N, 1, C, h, w]."""
    return [level[:, None] for level in features]


def _clips(frames: Tensor, number: int) -> Tensor:
    """[B T, C, h, w] -> [B, C, T, h, w]"""
    return frames.unflatten(0, (number, -1)).transpose(1, 2)
