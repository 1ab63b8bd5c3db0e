"""Smooth random fields, and the parts of a view that they hide. Knows no networks.

CCVS (https://arxiv.org/abs/2107.08037), section 3.2: views of a frame are distorted and occluded at random.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

from tokenreel.decoders.context.warp import pixel_grid, warp

UNLIKE = 0.1  # of [-1, 1], 13 of 255 levels: more than what blur and noise change of a surface


def smooth_noise(
    shape: tuple[int, int, int, int], smoothness: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Normal fields [N, C, H, W], mean 0, variance 1 everywhere, correlated over `smoothness` (a share of the height).

    The covariance at distance r is exp(-r^2 / 4 sigma^2), sigma = smoothness x H: that of white noise under a Gaussian
    of that sigma, which is what CCVS's code draws at each pixel and filters. Here the noise lies on knots one sigma
    apart and is spread by two small matrices, which for 8 frames of 64x64 and smoothness 0.1 takes 0.1 ms on a CPU core
    where filtering pixels takes 3 ms, and 0.7 ms against 220 ms at 256x256. The knots reach three sigma beyond the
    picture; that code's filter mirrors the picture instead, which makes fields stronger at its border.
    """
    *batch, height, width = shape
    rows = _bumps(height, smoothness * height, device)
    columns = _bumps(width, smoothness * height, device)
    noise = torch.randn(*batch, rows.shape[1], columns.shape[1], generator=generator, device=device)
    return rows @ noise @ columns.T


def _bumps(length: int, sigma: float, device: torch.device) -> Tensor:
    """[length, knots]: what each knot's noise adds to each pixel; rows of norm 1, so that variances stay 1."""
    knots = torch.arange(-3, math.ceil(length / sigma) + 4, device=device) * sigma
    pixels = torch.arange(length, device=device)
    weights = torch.exp(-0.5 * ((pixels[:, None] - knots) / sigma) ** 2)
    return weights / weights.norm(dim=1, keepdim=True)


def draw_hidden(
    shape: tuple[int, int, int, int],
    share: float,
    smoothness: float,
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """`shape` [N, 1, H, W], in {0, 1}: blobs hide `share` (0 to below 1) of all pixels on average, not of each picture.

    CCVS's code compares its field, which has no unit variance, with 1 - 2 share: half of the pixels at 0.5, as here.
    """
    if share == 0:
        return torch.zeros(shape, device=device)
    threshold = NormalDist().inv_cdf(1 - share)
    return (smooth_noise(shape, smoothness, generator, device) > threshold).float()


def occluded_in_target(hidden: Tensor, flow: Tensor) -> Tensor:
    """o' = W(o, f) of section 3.2, [N, 1, H, W] in {0, 1}: 1 where what the flow points at is not to be seen.

    `hidden` [N, 1, H, W] is in the context's coordinates, `flow` [N, 2, H, W] in pixels leads there from the target's.
    Not to be seen is what is mostly hidden in the four pixels around, and what lies beyond the border pixels' area.
    """
    height, width = hidden.shape[2:]
    place = pixel_grid(height, width, flow.device) + flow
    limit = torch.tensor([width, height], device=flow.device).view(1, 2, 1, 1) - 0.5
    outside = ((place < -0.5) | (place > limit)).any(1, keepdim=True)
    return ((warp(hidden, flow) > 0.5) | outside).float()


def unlike(first: Tensor, second: Tensor) -> Tensor:
    """Pictures [N, 3, H, W] in [-1, 1] -> [N, 1, H, W] in {0, 1}: 1 where some channel differs by more than UNLIKE."""
    return ((first - second).abs().amax(1, keepdim=True) > UNLIKE).float()
