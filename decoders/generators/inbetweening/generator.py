"""Inbetweening with 3D convolutions (Li, Roblek and Tagliasacchi 2019, https://arxiv.org/abs/1905.10240): the frames
between a start frame and an end frame, of noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.data.spec import Framing
from tokenreel.decoders.generators.base import Adversary, VideoGenerator
from tokenreel.decoders.generators.conditions import Conditions
from tokenreel.decoders.generators.inbetweening.adversary import InbetweeningAdversary
from tokenreel.decoders.generators.inbetweening.config import InbetweeningConfig
from tokenreel.decoders.generators.inbetweening.encoder import image_encoder
from tokenreel.decoders.generators.inbetweening.latents import LatentGenerator, NoisyKeyFrames, time_doublings
from tokenreel.decoders.generators.inbetweening.layers import initialise
from tokenreel.decoders.generators.inbetweening.pixels import video_layers
from tokenreel.errors import ConfigError

REDUCTION = 8  # of height and width, from pixels to latents


class Inbetweening(VideoGenerator):
    """Image encoder, latent generator and video generator; or the baselines that `config.fusion` names."""

    config_class: ClassVar[type[Any]] = InbetweeningConfig
    adversary_class: ClassVar[type[Adversary]] = InbetweeningAdversary

    def __init__(
        self, config: InbetweeningConfig, frames: int, framing: Framing, classes: tuple[str, ...] = ()
    ) -> None:
        if classes:
            raise ConfigError(f"classes ({', '.join(classes)}): inbetweening is not conditioned on a class; omit them")
        if framing.height % REDUCTION or framing.width % REDUCTION:
            raise ConfigError(f"framing (={framing.height}x{framing.width}) must be multiples of {REDUCTION}")
        super().__init__(
            config,
            GeneratorSpec(frames, framing, config.noise, given_frames=1, end_frame=True, channels=config.channels),
        )
        naive, doublings = config.fusion == "naive", time_doublings(frames)
        if naive and doublings > len(config.widths):
            raise ConfigError(f"frames (={frames}) must be at most {2 << len(config.widths)} where fusion is naive")
        self.encoder = image_encoder(config.channels, config.widths, config.latent)
        self.latents = (
            NoisyKeyFrames(config.noise, config.latent)
            if naive
            else LatentGenerator(config.noise, config.latent, config.blocks, frames, gated=config.fusion == "full")
        )
        self.video = video_layers(config.latent, config.widths, config.channels, doublings if naive else 0)
        initialise(self, config.init)

    def forward(self, noise: Tensor, conditions: Conditions) -> Tensor:
        key_frames = self._key_frames(conditions)
        start, end = self._encoded(key_frames)
        return self._pasted(self.video(self.latents(start, end, noise)), key_frames)

    @torch.no_grad()
    def clips_by_block(self, noise: Tensor, conditions: Conditions) -> Iterator[Tensor]:
        """For each block of the last stage the clip that the video generator makes of its output (figure 4), [B, c, T,
        H, W] as of `forward`; the last one is that of `forward`. Nothing for the naive baseline.
        """
        if isinstance(self.latents, LatentGenerator):
            key_frames = self._key_frames(conditions)
            start, end = self._encoded(key_frames)
            for latents in self.latents.outputs(start, end, noise):
                if latents.shape[2] == self.spec.frames:
                    yield self._pasted(self.video(latents), key_frames)

    @torch.no_grad()
    def gate_means(self, noise: Tensor) -> Tensor:
        """The mean weights of start frame, end frame and previous block, [blocks, 3], for noise [B, D]; [0, 3] without
        gates. A block whose third weight stays at 0 refines nothing but its residual.
        """
        blocks = self.latents.blocks if isinstance(self.latents, LatentGenerator) else ()
        gates = [block.gates(block.own_noise(noise)) for block in blocks]
        means = [
            torch.stack([gate.start.mean(), gate.end.mean(), gate.rest.mean()]) for gate in gates if gate is not None
        ]
        return torch.stack(means) if means else noise.new_zeros(0, 3)

    def _key_frames(self, conditions: Conditions) -> Tensor:
        """[2, B, c, H, W]: the start frames, the end frames."""
        assert conditions.given is not None
        assert conditions.end is not None
        return torch.stack([self.own_channels(conditions.given[:, :, 0]), self.own_channels(conditions.end)])

    def _encoded(self, key_frames: Tensor) -> Tensor:
        """[2, B, c, H, W] -> [2, B, C, h, w], of one batch, so that both are normalised alike."""
        encoded: Tensor = self.encoder(key_frames.flatten(0, 1))
        return encoded.unflatten(0, key_frames.shape[:2])

    def _pasted(self, video: Tensor, key_frames: Tensor) -> Tensor:
        """The video with the key frames in place of its own first and last frame."""
        start, end = key_frames[:, :, :, None]
        return torch.cat([start, video[:, :, 1:-1], end], 2)
