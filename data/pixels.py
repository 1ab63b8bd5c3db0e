"""The two forms of a video: uint8 [..., T, H, W, C] at the edges, float [..., C, T, H, W] in [-1, 1] inside models."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_model(frames: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [..., T, H, W, C] -> float32 [..., C, T, H, W] in [-1, 1]; 0 becomes -1 and 255 becomes 1."""
    pixels = torch.as_tensor(frames, device=device)
    if pixels.dtype != torch.uint8:
        raise TypeError(f"frames must be uint8, got {pixels.dtype}")
    return pixels.movedim(-1, -4).float().div_(127.5).sub_(1.0)


def to_frames(video: Tensor) -> np.ndarray:
    """float [..., C, T, H, W] -> uint8 [..., T, H, W, C], rounded and clipped; the inverse of `to_model`."""
    pixels = video.detach().float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.movedim(-4, -1).cpu().numpy()
