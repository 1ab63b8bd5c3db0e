"""The hierarchical 3D VQ-VAE of Walker et al. 2021, https://arxiv.org/abs/2103.01950, section 3.1 and table 3.

Two levels of codes of a whole clip, a coarse `top` and a fine `bottom`. 3D convolutions reach over the clip, so a code
knows later frames; what may be known of the given frames are two tracks, these frames encoded as a clip of their own.
It knows nothing of priors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec, given_name
from tokenreel.decoders.layers.video import upsampling
from tokenreel.decoders.video_decoder import VideoDecoder
from tokenreel.errors import ConfigError
from tokenreel.tokenizers.base import Reconstruction, Tokens, VideoTokenizer
from tokenreel.tokenizers.encoders.video_encoder import VideoEncoder
from tokenreel.tokenizers.quantizers.base import AnyQuantizerConfig, Quantizer, build_quantizer
from tokenreel.tokenizers.quantizers.vq import VQConfig

LEVELS = ("top", "bottom")
TRACKS = {level: given_name(level) for level in LEVELS}  # of the given frames encoded alone, by level


@dataclass(frozen=True)
class HierarchicalVQVAEConfig:
    type: ClassVar[str] = "hierarchical-vqvae"

    quantizer: AnyQuantizerConfig = field(default_factory=VQConfig)  # of each level, which has one of its own
    hidden: int = 128  # channels of all features
    residual: int = 32  # channels inside a residual block
    blocks: int = 2  # residual blocks of each encoder stage and each decoder
    latent: int = 64  # D, channels of the vectors that are quantized
    bottom_stride: tuple[int, int, int] = (2, 4, 4)  # frames, rows and columns of pixels to a bottom code
    top_stride: tuple[int, int, int] = (2, 2, 2)  # steps, rows and columns of bottom codes to a top code
    given: int = 4  # frames that are also encoded alone
    bottom_sees_top: bool = True  # the bottom is quantized given the decoded top, as in VQ-VAE-2
    mask_bottom: float = 0.05  # probability that a training clip is decoded from its top alone

    def __post_init__(self) -> None:
        if min(self.hidden, self.residual, self.latent, *self.bottom_stride, *self.top_stride) < 1 or self.blocks < 0:
            raise ConfigError(f"hidden, residual, latent and strides must be at least 1, blocks at least 0, got {self}")
        if not 0 <= self.mask_bottom <= 1:
            raise ConfigError(f"mask_bottom (={self.mask_bottom}) is a probability: use a value in [0, 1]")

    @property
    def strides(self) -> dict[str, tuple[int, int, int]]:
        """Frames, rows and columns of pixels to a code, by level."""
        t, h, w = (bottom * top for bottom, top in zip(self.bottom_stride, self.top_stride, strict=True))
        return {"top": (t, h, w), "bottom": self.bottom_stride}


class HierarchicalEncoder(nn.Module):
    """All that is in front of the codebooks: the bottom stage reads pixels, the top stage the bottom stage's features.

    With `bottom_sees_top` the decoded top's vectors join those features before the bottom is quantized.
    """

    def __init__(self, config: HierarchicalVQVAEConfig) -> None:
        super().__init__()
        size = (config.hidden, config.residual, config.blocks)
        self.features = VideoEncoder(3, *size, config.bottom_stride)
        self.top = VideoEncoder(config.hidden, *size, config.top_stride)
        self.to_top = nn.Conv3d(config.hidden, config.latent, 1)
        above = config.latent if config.bottom_sees_top else 0
        self.from_top = VideoDecoder(config.latent, above, *size, config.top_stride) if above else None
        self.to_bottom = nn.Conv3d(config.hidden + above, config.latent, 1)

    def top_latents(self, features: Tensor) -> Tensor:
        """[B, hidden, t, h, w] on the bottom grid -> [B, D, t, h, w] on the top grid."""
        latents: Tensor = self.to_top(self.top(features))
        return latents

    def bottom_latents(self, features: Tensor, quantized_top: Tensor) -> Tensor:
        """[B, hidden, t, h, w] on the bottom grid and [B, D, t, h, w] on the top grid -> [B, D, t, h, w] on the bottom
        grid.
        """
        if self.from_top is not None:
            features = torch.cat([features, self.from_top(quantized_top)], dim=1)
        latents: Tensor = self.to_bottom(features)
        return latents


class HierarchicalDecoder(nn.Module):
    """The vectors of both levels, [B, D, t, h, w] each on its grid -> float [B, 3, T, H, W] in (-1, 1)."""

    def __init__(self, config: HierarchicalVQVAEConfig) -> None:
        super().__init__()
        self.upsample_top = upsampling(config.latent, config.latent, config.top_stride)
        size = (config.hidden, config.residual, config.blocks)
        self.pixels = VideoDecoder(2 * config.latent, 3, *size, config.bottom_stride)

    def forward(self, top: Tensor, bottom: Tensor | None) -> Tensor:
        """Without a `bottom` from the top alone: zeros in its place, as where training masks it."""
        upsampled = self.upsample_top(top)
        bottom = torch.zeros_like(upsampled) if bottom is None else bottom
        return torch.tanh(self.pixels(torch.cat([upsampled, bottom], dim=1))).float()


class HierarchicalVQVAE(VideoTokenizer):
    """Streams `top` and `bottom`, and `top_given` and `bottom_given` of the first `given` frames encoded alone.

    Training minimises the mean squared error of pixels in [-1, 1] plus the losses of each level's quantizer (equation 2
    with VQ).
    """

    config_class: ClassVar[type[Any]] = HierarchicalVQVAEConfig
    decode_only_modules: ClassVar[tuple[str, ...]] = ("decoder",)
    decode_only_settings: ClassVar[tuple[str, ...]] = ("mask_bottom",)

    def __init__(self, config: HierarchicalVQVAEConfig, frames: int, framing: Framing) -> None:
        encoder = HierarchicalEncoder(config)  # first, as initial weights depend on the order of construction
        top, bottom = (build_quantizer(config.quantizer, config.latent) for _ in LEVELS)
        super().__init__(config, _spec(config, top, frames, framing))
        self.encoder = encoder
        self.top_quantizer, self.bottom_quantizer = top, bottom
        self.decoder = HierarchicalDecoder(config)

    def encode(self, video: Tensor) -> Tokens:
        """T may be any multiple of the top's frames a step. The tracks know the first `given` frames and no others."""
        clip, alone = self._codes(video), self._codes(video[:, :, : self.config.given])
        return {**clip, **{track: alone[level] for level, track in TRACKS.items()}}

    def decode(self, tokens: Mapping[str, Tensor], memory: Any = None) -> Tensor:
        """From both levels; the tracks are not needed. Raises ConfigError where a level is missing."""
        for level in LEVELS:
            if level not in tokens:
                raise ConfigError(
                    f"tokens (={', '.join(tokens)}) lack the level {level!r}: decode both levels of a clip"
                )
        top, bottom = self.top_quantizer.decode(tokens["top"]), self.bottom_quantizer.decode(tokens["bottom"])
        pixels: Tensor = self.decoder(top, bottom)
        return pixels

    def decode_top(self, indices: Tensor) -> Tensor:
        """Codes of the top level alone [B, t, h, w, q] -> float [B, 3, T, H, W] in [-1, 1], without fine detail."""
        pixels: Tensor = self.decoder(self.top_quantizer.decode(indices), None)
        return pixels

    def forward(self, video: Tensor) -> Reconstruction:
        self._require_whole_codes(video)
        features = self.encoder.features(video)
        top = self.top_quantizer(self.encoder.top_latents(features))
        bottom = self.bottom_quantizer(self.encoder.bottom_latents(features, top.latents))
        pixels = self.decoder(top.latents, self._masked(bottom.latents))
        losses = {"reconstruction": functional.mse_loss(pixels, video)}
        for level, quantized in zip(LEVELS, (top, bottom), strict=True):
            losses |= {f"{level}_{name}": loss for name, loss in quantized.losses.items()}
        return Reconstruction(pixels, losses, {"top": top.code_counts, "bottom": bottom.code_counts})

    def _codes(self, video: Tensor) -> Tokens:
        """Of both levels; moves no codebook."""
        self._require_whole_codes(video)
        features = self.encoder.features(video)
        top = self.top_quantizer.encode(self.encoder.top_latents(features))
        latents = self.encoder.bottom_latents(features, self.top_quantizer.decode(top))
        return {"top": top, "bottom": self.bottom_quantizer.encode(latents)}

    def _masked(self, bottom: Tensor) -> Tensor:
        """In training some clips lose their bottom, so that the decoder needs the top as well (section 3.1)."""
        if not self.training or self.config.mask_bottom == 0:
            return bottom
        masked = torch.rand(len(bottom), 1, 1, 1, 1, device=bottom.device) < self.config.mask_bottom
        return bottom.masked_fill(masked, 0.0)

    def _require_whole_codes(self, video: Tensor) -> None:
        framing, stride = self.spec.framing, self.spec.stream("top").stride
        sizes, frames = (video.shape[1], *video.shape[3:]), video.shape[2]
        if sizes != (3, framing.height, framing.width) or frames < self.config.given or frames % stride:
            raise ConfigError(
                f"video (shape {tuple(video.shape)}) must be [B, 3, T, {framing.height}, {framing.width}] with T a "
                f"multiple of {stride} and at least {self.config.given}: frame and cut the clips as the spec says"
            )


def _spec(config: HierarchicalVQVAEConfig, quantizer: Quantizer, frames: int, framing: Framing) -> TokenSpec:
    """Raises ConfigError where the clip or its given frames do not fill whole codes of both levels, which have
    quantizers of the same kind.
    """
    t, h, w = config.strides["top"]
    _require_multiples(
        frames=(frames, t), height=(framing.height, h), width=(framing.width, w), given=(config.given, t)
    )
    if config.given > frames:
        raise ConfigError(f"given (={config.given}) frames are more than a clip has (={frames})")
    levels = (_stream(config, quantizer, level, frames, framing) for level in LEVELS)
    tracks = (_stream(config, quantizer, level, config.given, framing, track) for level, track in TRACKS.items())
    return TokenSpec((*levels, *tracks), frames, framing, time="window")


def _require_multiples(**sizes: Sequence[int]) -> None:
    """`name=(size, factor)`; for a clip, the factor is the pixels or frames that a top code stands for."""
    for name, (size, factor) in sizes.items():
        if size < 1 or size % factor:
            fitting = [str(near) for near in (size // factor * factor, (size // factor + 1) * factor) if near > 0]
            raise ConfigError(
                f"{name} (={size}) must be a multiple of {factor}, as bottom_stride x top_stride makes whole codes: "
                f"use {' or '.join(fitting)}"
            )


def _stream(
    config: HierarchicalVQVAEConfig,
    quantizer: Quantizer,
    level: str,
    frames: int,
    framing: Framing,
    track: str | None = None,
) -> StreamSpec:
    t, h, w = config.strides[level]
    grid = (frames // t, framing.height // h, framing.width // w)
    indices, books = quantizer.codebook_size, quantizer.codebooks
    return StreamSpec(track or level, grid, indices, books, stride=t, role="control" if track else "level")
