"""Normalisation in DVD-GAN's generator: by batch statistics of each time step, or one of the others of appendix D."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tokenreel.decoders.generators.dvd_gan.config import Normalisation
from tokenreel.decoders.layers.batch_norm import EPS, BatchNorm

MAX_GROUPS = 32  # of group normalisation, its paper's default; fewer where they do not divide the channels


class Norm(nn.Module):
    """[B, T, C, H, W] -> the same, normalised, without learned parameters."""

    def __init__(self, kind: Normalisation, channels: int, frames: int) -> None:
        super().__init__()
        self.by_step = kind == "batch_time"
        groups = {"group": math.gcd(MAX_GROUPS, channels), "layer": 1, "instance": channels}
        if kind == "batch_time":  # statistics [T C]; as each has its own, time may stand in the place of channels
            self.norm: nn.Module = BatchNorm(frames, steps=channels, affine=False)
        elif kind == "batch":
            self.norm = BatchNorm(channels, affine=False)
        elif kind == "none":
            self.norm = nn.Identity()
        else:
            self.norm = nn.GroupNorm(groups[kind], channels, eps=EPS, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(x if self.by_step else x.flatten(0, 1))
        return normalised.view_as(x)


class ConditionalNorm(nn.Module):
    """Scale and shift of each channel are linear in what a clip is conditioned on: [B, T, C, H, W], [B, D] -> as x."""

    def __init__(self, kind: Normalisation, channels: int, frames: int, condition: int) -> None:
        super().__init__()
        self.norm = Norm(kind, channels, frames)
        self.scale = nn.Linear(condition, channels, bias=False)
        self.shift = nn.Linear(condition, channels, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = (layer(condition)[:, None, :, None, None] for layer in (self.scale, self.shift))
        return self.norm(x) * (1 + scale) + shift


class FinalNorm(nn.Module):
    """With a learned scale and shift of each channel: [B, T, C, H, W] -> the same."""

    def __init__(self, kind: Normalisation, channels: int, frames: int) -> None:
        super().__init__()
        self.norm = Norm(kind, channels, frames)
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) * self.scale + self.shift
