"""The latent generator G_Z (section 3.2): the latents of two key frames and noise -> latents of all frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from tokenreel.decoders.generators.inbetweening.layers import activate
from tokenreel.decoders.layers.batch_norm import BatchNorm
from tokenreel.errors import ConfigError


class Gates(NamedTuple):
    """Weights between 0 and 1, [B, C, t], of the latents of the start frame and of the end frame."""

    start: Tensor
    end: Tensor

    @property
    def rest(self) -> Tensor:
        """The weight of the previous block's output. Around 0 at first, when both gates are around a half: then only
        the residual connection carries that output.
        """
        return (1 - self.start - self.end).clamp(min=0)


class LatentBlock(nn.Module):
    """A residual block over `steps` time steps into which noise and, if `gated`, the key frames are fused (equations 1
    to 5). Equation 4 prints the start frame's gate twice; the end frame's is meant.
    """

    def __init__(self, noise: int, width: int, steps: int, gated: bool) -> None:
        super().__init__()
        self.steps = steps
        self.project_noise = nn.Sequential(nn.Linear(noise, width * steps), nn.Unflatten(1, (steps, width)))
        self.start_gate = nn.Conv1d(width, width, 3, padding=1) if gated else None
        self.end_gate = nn.Conv1d(width, width, 3, padding=1) if gated else None
        self.addition = nn.Conv1d(width, width, 3, padding=1)
        self.first, self.first_norm = nn.Conv3d(width, width, 3, padding=1), BatchNorm(width)
        self.second, self.second_norm = nn.Conv3d(width, width, 3, padding=1), BatchNorm(width)

    def forward(self, latents: Tensor, start: Tensor, end: Tensor, noise: Tensor) -> Tensor:
        """latents [B, C, t, h, w], start and end [B, C, h, w], noise [B, D] -> [B, C, t, h, w]"""
        own_noise = self.own_noise(noise)
        fused = latents + _everywhere(self.addition(own_noise))
        if (gates := self.gates(own_noise)) is not None:
            weights = [_everywhere(gate) for gate in (gates.start, gates.end, gates.rest)]
            fused = weights[0] * start[:, :, None] + weights[1] * end[:, :, None] + weights[2] * latents
            fused = fused + _everywhere(self.addition(own_noise))
        inner = activate(self.first_norm(self.first(fused)))
        return activate(latents + self.second_norm(self.second(inner)))

    def own_noise(self, noise: Tensor) -> Tensor:
        """Equation 1: [B, D] -> [B, C, t]"""
        projected: Tensor = self.project_noise(noise)
        return projected.transpose(1, 2)

    def gates(self, own_noise: Tensor) -> Gates | None:
        """Equations 2 and 3; None in a block without gates."""
        if self.start_gate is None or self.end_gate is None:
            return None
        return Gates(self.start_gate(own_noise).sigmoid(), self.end_gate(own_noise).sigmoid())


class LatentGenerator(nn.Module):
    """Blocks in stages: before each stage the number of steps doubles, from the two of the key frames to `frames`."""

    def __init__(self, noise: int, width: int, blocks: int, frames: int, gated: bool) -> None:
        super().__init__()
        stages = time_doublings(frames)
        if blocks % stages:
            raise ConfigError(f"blocks (={blocks}) must be a multiple of {stages}, the stages for {frames} frames")
        steps = [4 << stage for stage in range(stages) for _ in range(blocks // stages)]
        self.blocks = cast(Sequence[LatentBlock], nn.ModuleList(LatentBlock(noise, width, t, gated) for t in steps))

    def forward(self, start: Tensor, end: Tensor, noise: Tensor) -> Tensor:
        """start and end [B, C, h, w], noise [B, D] -> [B, C, T, h, w]"""
        *_, latents = self.outputs(start, end, noise)
        return latents

    def outputs(self, start: Tensor, end: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """The output of each block, [B, C, t, h, w]."""
        latents = torch.stack([start, end], 2)
        for block in self.blocks:
            if latents.shape[2] < block.steps:
                latents = latents.repeat_interleave(2, 2)
            latents = block(latents, start, end, noise)
            yield latents


class NoisyKeyFrames(nn.Module):
    """In place of the latent generator in the naive baseline (section 4.2): the key frames' latents, and noise."""

    def __init__(self, noise: int, width: int) -> None:
        super().__init__()
        self.project_noise = nn.Linear(noise, width)

    def forward(self, start: Tensor, end: Tensor, noise: Tensor) -> Tensor:
        """start and end [B, C, h, w], noise [B, D] -> [B, C, 2, h, w]"""
        added: Tensor = self.project_noise(noise)
        return torch.stack([start, end], 2) + added[..., None, None, None]


def time_doublings(frames: int) -> int:
    """How often two key frames double to `frames`. Raises ConfigError where they do not."""
    doublings = frames.bit_length() - 2
    if frames < 4 or frames != 2 << doublings:
        raise ConfigError(f"frames (={frames}) must be 4, 8, 16 or a higher power of two: two key frames double to it")
    return doublings


def _everywhere(values: Tensor) -> Tensor:
    """[B, C, t] -> [B, C, t, 1, 1], alike at all positions"""
    return values[..., None, None]
