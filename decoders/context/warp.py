"""Backward warping of features by a flow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """[N, C, h, w] and flow [N, 2, h, w] -> [N, C, h, w]: the value at p + flow[p], (x, y) in pixels of this grid.

    Bilinear between pixels; beyond the frame, the nearest border pixel (zeros in CCVS's code: a camera that moves would
    then have a dark edge until the mask is learnt). An integer flow is exact: in that code a flow of one pixel moves
    things by w / (w - 1) pixels, because it mixes two conventions of coordinates.
    """
    height, width = features.shape[2:]
    grid = pixel_grid(height, width, features.device) + flow.float()
    x, y = (grid[:, axis] * (2 / max(side - 1, 1)) - 1 for axis, side in enumerate((width, height)))
    normalized = torch.stack([x, y], -1)  # -1 and 1 are the centres of the corner pixels
    # float32 throughout: bf16 coordinates would be off by half a pixel from the 128th pixel on.
    with torch.autocast(features.device.type, enabled=False):
        warped = functional.grid_sample(features.float(), normalized, "bilinear", "border", align_corners=True)
    return warped.to(features.dtype)


def pixel_grid(height: int, width: int, device: torch.device) -> Tensor:
    """Coordinates (x, y) of each pixel, float32 [1, 2, h, w]."""
    y = torch.arange(height, dtype=torch.float32, device=device)
    x = torch.arange(width, dtype=torch.float32, device=device)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]
