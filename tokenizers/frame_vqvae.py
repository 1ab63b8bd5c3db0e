"""The frame VQ-VAE of LVT (Rakhimov et al. 2020, sections 3.1 and 4.1): every frame is tokenized independently.

Its tokens depend on no other frame, so clips of any length can be encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.decoders.frame_decoder import FrameDecoder
from tokenreel.decoders.layers.frames import fold_time, unfold_time
from tokenreel.errors import ConfigError
from tokenreel.sample_random import SampleRandom
from tokenreel.tokenizers.base import Reconstruction, Tokens, VideoTokenizer, token_grid
from tokenreel.tokenizers.encoders.frame_encoder import FrameEncoder
from tokenreel.tokenizers.quantizers.base import AnyQuantizerConfig, build_quantizer
from tokenreel.tokenizers.quantizers.vq import VQConfig

STREAM = "video"


MAX_DOWNSAMPLINGS = 16  # a token of 65,536 x 65,536 pixels


@dataclass(frozen=True)
class FrameVQVAEConfig:
    type: ClassVar[str] = "frame-vqvae"

    quantizer: AnyQuantizerConfig = field(default_factory=VQConfig)
    hidden: int = 256  # channels on the token grid; halved on each finer grid
    residual: int = 128  # channels inside a residual block
    blocks: int = 2  # residual blocks in the encoder, and in the decoder
    downsamplings: int = 2  # halvings of height and width between pixels and tokens
    latent: int = 256  # D, channels of the vectors that are quantized

    def __post_init__(self) -> None:
        if min(self.residual, self.downsamplings, self.latent) < 1 or self.blocks < 0:
            raise ConfigError(f"residual, downsamplings and latent must be at least 1, blocks at least 0, got {self}")
        if self.downsamplings > MAX_DOWNSAMPLINGS:
            raise ConfigError(f"downsamplings (={self.downsamplings}) must be at most {MAX_DOWNSAMPLINGS}")
        least = 2 ** (self.downsamplings - 1)
        if self.hidden < least:
            raise ConfigError(f"hidden (={self.hidden}) must be at least {least}, 2^(downsamplings - 1)")


class FrameVQVAE(VideoTokenizer):
    """One stream `video` of t = T code steps, each the h x w x q tokens of one frame.

    Training minimises the mean squared error of pixels in [-1, 1] plus the quantizer's losses (LVT equation 1). Weights
    start as torch's layers do; in the authors' code they are Xavier uniform, biases zero. The paper does not say.
    """

    config_class: ClassVar[type[Any]] = FrameVQVAEConfig
    decode_only_modules: ClassVar[tuple[str, ...]] = ("decoder",)

    def __init__(self, config: FrameVQVAEConfig, frames: int, framing: Framing) -> None:
        quantizer = build_quantizer(config.quantizer, config.latent)
        grid = (frames, *token_grid(framing, 2**config.downsamplings))
        stream = StreamSpec(STREAM, grid, codebook_size=quantizer.codebook_size, codebooks=quantizer.codebooks)
        super().__init__(config, TokenSpec((stream,), frames, framing, time="framewise"))
        sizes = (config.latent, config.hidden, config.residual, config.blocks, config.downsamplings)
        self.encoder = FrameEncoder(*sizes)
        self.quantizer = quantizer
        self.decoder = FrameDecoder(*sizes)

    def encode(self, video: Tensor) -> Tokens:
        return {STREAM: self.quantizer.encode(self._latents(video))}

    def decode(self, tokens: Mapping[str, Tensor], context_buffer: Any = None) -> Tensor:
        return self._pixels(self.quantizer.decode(tokens[STREAM]))

    def forward(self, video: Tensor, random: SampleRandom | None = None) -> Reconstruction:
        quantized = self.quantizer(self._latents(video))
        pixels = self._pixels(quantized.latents)
        losses = {"reconstruction": functional.mse_loss(pixels, video), **quantized.losses}
        return Reconstruction(pixels, losses, {STREAM: quantized.code_counts})

    def _latents(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> [B, D, T, h, w]"""
        self.require_framing(video)
        return unfold_time(self.encoder(fold_time(video)), len(video))

    def _pixels(self, latents: Tensor) -> Tensor:
        """[B, D, T, h, w] -> float32 [B, 3, T, H, W]"""
        return unfold_time(self.decoder(fold_time(latents)), len(latents)).float()
