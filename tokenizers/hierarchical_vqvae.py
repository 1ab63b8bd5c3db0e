"""The hierarchical 3D VQ-VAE of Walker et al. 2021, https://arxiv.org/abs/2103.01950, section 3.1 and table 3.

Two levels of tokens of a clip, a coarse `top` and a fine `bottom`. 3D convolutions extend over the clip, so a token
depends on later frames; given frames are therefore also encoded as a clip of their own, in two control streams.
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
from tokenreel.sample_random import SampleRandom
from tokenreel.tokenizers.base import Reconstruction, Tokens, VideoTokenizer
from tokenreel.tokenizers.encoders.video_encoder import VideoEncoder
from tokenreel.tokenizers.quantizers.base import AnyQuantizerConfig, Quantizer, build_quantizer
from tokenreel.tokenizers.quantizers.vq import VQConfig

LEVELS = ("top", "bottom")
GIVEN_STREAMS = {level: given_name(level) for level in LEVELS}  # control streams of the given frames, by level


@dataclass(frozen=True)
class HierarchicalVQVAEConfig:
    type: ClassVar[str] = "hierarchical-vqvae"
    decode_only_settings: ClassVar[tuple[str, ...]] = ("mask_bottom",)

    quantizer: AnyQuantizerConfig = field(default_factory=VQConfig)  # settings of both levels' quantizers
    hidden: int = 128  # channels of all features
    residual: int = 32  # channels inside a residual block
    blocks: int = 2  # residual blocks in each encoder stage and in each decoder
    latent: int = 64  # D, channels of the vectors that are quantized
    bottom_stride: tuple[int, int, int] = (2, 4, 4)  # frames, rows and columns of pixels to a bottom token
    top_stride: tuple[int, int, int] = (2, 2, 2)  # steps, rows and columns of bottom tokens to a top token
    given_frames: int = 4  # first frames that are also encoded on their own
    condition_bottom: bool = True  # encode the bottom conditioned on the quantized top, as in VQ-VAE-2
    mask_bottom: float = 0.05  # probability that a training clip is decoded from its top alone

    def __post_init__(self) -> None:
        if min(self.hidden, self.residual, self.latent, *self.bottom_stride, *self.top_stride) < 1 or self.blocks < 0:
            raise ConfigError(f"hidden, residual, latent and strides must be at least 1, blocks at least 0, got {self}")
        if not 0 <= self.mask_bottom <= 1:
            raise ConfigError(f"mask_bottom (={self.mask_bottom}) must be a probability in [0, 1]")

    @property
    def strides(self) -> dict[str, tuple[int, int, int]]:
        """Frames, rows and columns of pixels to a token, by level."""
        t, h, w = (bottom * top for bottom, top in zip(self.bottom_stride, self.top_stride, strict=True))
        return {"top": (t, h, w), "bottom": self.bottom_stride}


class HierarchicalEncoder(nn.Module):
    """Encoder of both levels: the bottom stage encodes pixels, the top stage the bottom stage's features.

    With `condition_bottom`, the decoded top is concatenated to those features before the bottom is quantized.
    """

    def __init__(self, config: HierarchicalVQVAEConfig) -> None:
        super().__init__()
        size = (config.hidden, config.residual, config.blocks)
        self.features = VideoEncoder(3, *size, config.bottom_stride)
        self.top = VideoEncoder(config.hidden, *size, config.top_stride)
        self.to_top = nn.Conv3d(config.hidden, config.latent, 1)
        condition = config.latent if config.condition_bottom else 0
        self.from_top = VideoDecoder(config.latent, condition, *size, config.top_stride) if condition else None
        self.to_bottom = nn.Conv3d(config.hidden + condition, config.latent, 1)

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
    """Latents of both levels, each [B, D, t, h, w] on its grid -> float [B, 3, T, H, W] in (-1, 1)."""

    def __init__(self, config: HierarchicalVQVAEConfig) -> None:
        super().__init__()
        self.upsample_top = upsampling(config.latent, config.latent, config.top_stride)
        size = (config.hidden, config.residual, config.blocks)
        self.pixels = VideoDecoder(2 * config.latent, 3, *size, config.bottom_stride)

    def forward(self, top: Tensor, bottom: Tensor | None) -> Tensor:
        """If `bottom` is None, zeros replace it, as for clips that training masks."""
        upsampled = self.upsample_top(top)
        bottom = torch.zeros_like(upsampled) if bottom is None else bottom
        return torch.tanh(self.pixels(torch.cat([upsampled, bottom], dim=1))).float()


class HierarchicalVQVAE(VideoTokenizer):
    """Streams `top` and `bottom`, and control streams `top_given` and `bottom_given`: the first `given_frames` frames
    encoded on their own.

    Training minimises the mean squared error of pixels in [-1, 1] plus the losses of each level's quantizer (equation 2
    with VQ).
    """

    config_class: ClassVar[type[Any]] = HierarchicalVQVAEConfig
    decode_only_modules: ClassVar[tuple[str, ...]] = ("decoder",)

    def __init__(self, config: HierarchicalVQVAEConfig, frames: int, framing: Framing) -> None:
        encoder = HierarchicalEncoder(config)  # first, as initial weights depend on the order of construction
        top, bottom = (build_quantizer(config.quantizer, config.latent) for _ in LEVELS)
        super().__init__(config, _spec(config, top, frames, framing))
        self.encoder = encoder
        self.top_quantizer, self.bottom_quantizer = top, bottom
        self.decoder = HierarchicalDecoder(config)

    def encode(self, video: Tensor) -> Tokens:
        """T may be any multiple of the top's frames per step. Control streams depend on the given frames only."""
        clip, given = self._encode_levels(video), self._encode_levels(video[:, :, : self.config.given_frames])
        return {**clip, **{name: given[level] for level, name in GIVEN_STREAMS.items()}}

    def decode(self, tokens: Mapping[str, Tensor], context_buffer: Any = None) -> Tensor:
        """Decodes both levels; control streams are ignored. Raises ConfigError if a level is missing."""
        for level in LEVELS:
            if level not in tokens:
                raise ConfigError(f"tokens (={', '.join(tokens)}) lack level {level!r}: give both levels of a clip")
        top, bottom = self.top_quantizer.decode(tokens["top"]), self.bottom_quantizer.decode(tokens["bottom"])
        pixels: Tensor = self.decoder(top, bottom)
        return pixels

    def decode_top(self, indices: Tensor) -> Tensor:
        """Tokens [B, t, h, w, q] of the top level alone -> float [B, 3, T, H, W] in [-1, 1], without fine detail."""
        pixels: Tensor = self.decoder(self.top_quantizer.decode(indices), None)
        return pixels

    def forward(self, video: Tensor, random: SampleRandom | None = None) -> Reconstruction:
        self._require_shape(video)
        features = self.encoder.features(video)
        top = self.top_quantizer(self.encoder.top_latents(features))
        bottom = self.bottom_quantizer(self.encoder.bottom_latents(features, top.latents))
        pixels = self.decoder(top.latents, self._masked(bottom.latents, random))
        losses = {"reconstruction": functional.mse_loss(pixels, video)}
        for level, quantized in zip(LEVELS, (top, bottom), strict=True):
            losses |= {f"{level}_{name}": loss for name, loss in quantized.losses.items()}
        return Reconstruction(pixels, losses, {"top": top.code_counts, "bottom": bottom.code_counts})

    def _encode_levels(self, video: Tensor) -> Tokens:
        """Tokens of both levels; does not update the codebooks."""
        self._require_shape(video)
        features = self.encoder.features(video)
        top = self.top_quantizer.encode(self.encoder.top_latents(features))
        latents = self.encoder.bottom_latents(features, self.top_quantizer.decode(top))
        return {"top": top, "bottom": self.bottom_quantizer.encode(latents)}

    def _masked(self, bottom: Tensor, random: SampleRandom | None) -> Tensor:
        """Zeros the bottom of some training clips, so that the decoder learns to use the top as well (section 3.1)."""
        if not self.training or self.config.mask_bottom == 0:
            return bottom
        random = random or SampleRandom.unrepeatable(len(bottom), bottom.device)
        masked = random.rand(1, 1, 1, 1) < self.config.mask_bottom
        return bottom.masked_fill(masked, 0.0)

    def _require_shape(self, video: Tensor) -> None:
        framing, stride = self.spec.framing, self.spec.stream("top").stride
        sizes, frames = (video.shape[1], *video.shape[3:]), video.shape[2]
        if sizes != (3, framing.height, framing.width) or frames < self.config.given_frames or frames % stride:
            raise ConfigError(
                f"video (shape {tuple(video.shape)}) must be [B, 3, T, {framing.height}, {framing.width}] with T a "
                f"multiple of {stride} and at least {self.config.given_frames}: frame and cut clips as in the spec"
            )


def _spec(config: HierarchicalVQVAEConfig, quantizer: Quantizer, frames: int, framing: Framing) -> TokenSpec:
    """The spec for a quantizer like those of both levels. Raises ConfigError if the clip or its given frames do not
    fill complete tokens of both levels.
    """
    t, h, w = config.strides["top"]
    _require_multiples(
        frames=(frames, t), height=(framing.height, h), width=(framing.width, w), given_frames=(config.given_frames, t)
    )
    if config.given_frames > frames:
        raise ConfigError(f"given_frames (={config.given_frames}) must be at most {frames}, the frames of a clip")
    levels = (_stream(config, quantizer, level, frames, framing) for level in LEVELS)
    controls = (
        _stream(config, quantizer, level, config.given_frames, framing, name) for level, name in GIVEN_STREAMS.items()
    )
    return TokenSpec((*levels, *controls), frames, framing, time="window")


def _require_multiples(**sizes: Sequence[int]) -> None:
    """Raises ConfigError unless each `name=(size, factor)` is a multiple of the pixels or frames of a top token."""
    for name, (size, factor) in sizes.items():
        if size < 1 or size % factor:
            nearest = [str(near) for near in (size // factor * factor, (size // factor + 1) * factor) if near > 0]
            raise ConfigError(
                f"{name} (={size}) must be a multiple of {factor} (bottom_stride x top_stride): use "
                f"{' or '.join(nearest)}"
            )


def _stream(
    config: HierarchicalVQVAEConfig,
    quantizer: Quantizer,
    level: str,
    frames: int,
    framing: Framing,
    control: str | None = None,
) -> StreamSpec:
    """The stream of a level, or of the given frames of a level as the control stream called `control`."""
    t, h, w = config.strides[level]
    grid = (frames // t, framing.height // h, framing.width // w)
    size, codebooks = quantizer.codebook_size, quantizer.codebooks
    return StreamSpec(control or level, grid, size, codebooks, stride=t, role="control" if control else "level")
