"""Separable attention (DVD-GAN, appendix A): over time, then height, then width.

The printed code reshapes without the transpositions that its footnote requires, and transposes the batch as well.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.decoders.generators.dvd_gan.config import AttentionConfig


class SelfAttention(nn.Module):
    """softmax(XQ (XK)^T) XV over the last but one axis of X [..., N, C]."""

    def __init__(self, channels: int, scaled: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.scale = channels**-0.5 if scaled else 1.0

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        return functional.scaled_dot_product_attention(query, key, value, scale=self.scale)


class SeparableAttention(nn.Module):
    """[B, T, C, H, W] -> the same."""

    def __init__(self, config: AttentionConfig, channels: int) -> None:
        super().__init__()
        self.time, self.height, self.width = (SelfAttention(channels, config.scaled) for _ in range(3))
        self.gain = nn.Parameter(torch.zeros(())) if config.residual else None

    def forward(self, x: Tensor) -> Tensor:
        attended = self.time(x.permute(0, 3, 4, 1, 2))  # [B, H, W, T, C]
        attended = self.height(attended.permute(0, 3, 2, 1, 4))  # [B, T, W, H, C]
        attended = self.width(attended.transpose(2, 3))  # [B, T, H, W, C]
        attended = attended.permute(0, 1, 4, 2, 3)
        return attended if self.gain is None else x + self.gain * attended
