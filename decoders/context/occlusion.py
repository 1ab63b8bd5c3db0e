"""Smooth random fields, and random occlusions of augmented views.

CCVS (https://arxiv.org/abs/2107.08037), section 3.2: augmented views are randomly distorted and occluded.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

from tokenreel.decoders.context.warp import pixel_grid, warp
from tokenreel.sample_random import SampleRandom

MIN_DIFFERENCE = 0.1  # of [-1, 1], 13 of 255 levels: more than blur and noise change a surface


def smooth_noise(shape: tuple[int, int, int], smoothness: float, random: SampleRandom) -> Tensor:
    """Gaussian random fields [N, C, H, W], for `shape` (C, H, W), of mean 0 and variance 1.

    They are correlated over `smoothness`, a fraction of the height.

    The covariance at distance r is exp(-r^2 / 4 sigma^2) with sigma = smoothness x H, that of white noise filtered by a
    Gaussian of that sigma, as in CCVS's code. Here the noise is sampled on knots one sigma apart and interpolated by
    two small matrices, which is cheaper than filtering pixels. The knots extend three sigma beyond the frame; that
    code's filter mirrors the frame instead, which makes fields stronger at its border.
    """
    channels, height, width = shape
    rows = _interpolation(height, smoothness * height, random.device)
    columns = _interpolation(width, smoothness * height, random.device)
    noise = random.randn(channels, rows.shape[1], columns.shape[1])
    return rows @ noise @ columns.T


def _interpolation(length: int, sigma: float, device: torch.device) -> Tensor:
    """[length, knots]: the weight of each knot at each pixel; rows have norm 1, so that variances stay 1."""
    knots = torch.arange(-3, math.ceil(length / sigma) + 4, device=device) * sigma
    pixels = torch.arange(length, device=device)
    weights = torch.exp(-0.5 * ((pixels[:, None] - knots) / sigma) ** 2)
    return weights / weights.norm(dim=1, keepdim=True)


def sample_occlusion(height: int, width: int, fraction: float, smoothness: float, random: SampleRandom) -> Tensor:
    """Masks [N, 1, H, W] in {0, 1} of random blobs: 1 at `fraction` (0 to below 1) of all pixels on average.

    CCVS's code compares its field, whose variance is not 1, with 1 - 2 fraction: half of the pixels at 0.5, as here.
    """
    if fraction == 0:
        return torch.zeros(random.count, 1, height, width, device=random.device)
    threshold = NormalDist().inv_cdf(1 - fraction)
    return (smooth_noise((1, height, width), smoothness, random) > threshold).float()


def occluded_in_target(occlusion: Tensor, flow: Tensor) -> Tensor:
    """o' = W(o, f) of section 3.2, [N, 1, H, W] in {0, 1}: 1 where the pixel that the flow points at is not visible.

    `occlusion` [N, 1, H, W] is in the context's coordinates, `flow` [N, 2, H, W] in pixels leads there from the
    target's. A point is not visible if more than half of its four surrounding pixels (bilinearly weighted) is occluded,
    or if it lies outside the area of the border pixels.
    """
    height, width = occlusion.shape[2:]
    points = pixel_grid(height, width, flow.device) + flow
    limit = torch.tensor([width, height], device=flow.device).view(1, 2, 1, 1) - 0.5
    outside = ((points < -0.5) | (points > limit)).any(1, keepdim=True)
    return ((warp(occlusion, flow) > 0.5) | outside).float()


def differs(first: Tensor, second: Tensor) -> Tensor:
    """Frames [N, 3, H, W] in [-1, 1] -> [N, 1, H, W] in {0, 1}: 1 where a channel differs by over MIN_DIFFERENCE."""
    return ((first - second).abs().amax(1, keepdim=True) > MIN_DIFFERENCE).float()
