"""Augmented views of frames with known flow and occlusion, which supervise the flow module.

CCVS (https://arxiv.org/abs/2107.08037), section 3.2: the context is the distorted view, x_c = o_c * B(A(x)), and the
target is the frame itself, because distorted targets would teach the decoder to produce such defects. The true flow is
therefore the inverse of the distortion. Comments tell where this follows or departs from the public code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.decoders.context.flow_inversion import invert_flow
from tokenreel.decoders.context.object_motion import ObjectMotionConfig, move_parts, sample_parts
from tokenreel.decoders.context.occlusion import occluded_in_target, sample_occlusion, smooth_noise
from tokenreel.decoders.context.similarity_transform import sample_similarity, uniform
from tokenreel.decoders.context.warp import pixel_grid, warp
from tokenreel.errors import ConfigError
from tokenreel.sample_random import SampleRandom

BLUR_RADIUS = 6  # pixels on either side of the kernel's centre (13 in all, as the public code's largest)
MAX_BLUR = BLUR_RADIUS / 3  # pixels; a larger sigma would be cut off by the kernel
MAX_STEEPNESS = 0.5  # of elastic / smoothness; the field's slopes then have a standard deviation of 0.35


@dataclass(frozen=True)
class AugmentedViewConfig:
    """Strength of each component of a view; 0 disables it.

    The public code filters noise from U(-1, 1) by a Gaussian of s x H pixels and multiplies by a x H, which makes
    displacements with a standard deviation of sqrt(1/3) a / (2 sqrt(pi) s) pixels, whatever H is. That is 4.9 pixels
    for a = 3, s = 0.1 (BAIR and UCF-101 with H = 256: elastic 0.019; drums with H = 96: 0.051, here at most 0.05) and
    1.1 pixels for a = 2, s = 0.3 (Kinetics with H = 256, scaled to 64 afterwards: 0.0042). The paper mentions rotation
    and translation without a size; its code has neither.
    """

    elastic: float = 0.02  # standard deviation of the displacement along each axis, as a fraction of the height
    smoothness: float = 0.1  # Gaussian sigma of elastic field and occlusion, as a fraction of the height
    zoom: float = 0.1  # magnification is uniform in 1 - zoom to 1 + zoom
    rotation: float = 5.0  # largest angle in either direction, degrees
    translation: float = 0.05  # largest shift in either direction, as a fraction of the width and of the height
    blur: float = 2.0  # largest sigma, pixels; uniform from 0
    occlusion: float = 0.5  # mean fraction of occluded pixels
    occluder: Literal["other-frame", "grey"] = "other-frame"  # other-frame: a view of the batch; CCVS: grey
    object_motion: ObjectMotionConfig | None = None  # moving parts; not in CCVS
    flow_only: bool = False  # views train only the flow: no mask loss, no loss of their pixels; CCVS: false
    frames_per_clip: int = 1  # frames of a clip that are decoded with a view in a training step; cost grows with it

    def __post_init__(self) -> None:
        limits = {"zoom": 0.5, "rotation": 180, "translation": 0.5, "blur": MAX_BLUR, "occlusion": 0.99}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ConfigError(f"{name} (={getattr(self, name)}) must be from 0 (off) to {limit:g}")
        if self.frames_per_clip < 1:
            raise ConfigError(f"frames_per_clip (={self.frames_per_clip}) must be at least 1")
        if not 0 < self.smoothness <= 1:
            raise ConfigError(f"smoothness (={self.smoothness}) must be above 0 and at most 1 (of the height)")
        if not 0 <= self.elastic <= MAX_STEEPNESS * self.smoothness:
            raise ConfigError(
                f"elastic (={self.elastic}) must be from 0 (off) to half of smoothness (={self.smoothness}): "
                "a stronger field folds over itself and cannot be inverted"
            )


@dataclass(frozen=True)
class AugmentedViews:
    """A context for each of N frames, with the true flow and occlusion."""

    context: Tensor  # [N, 3, H, W], the dtype of the frames
    flow: Tensor  # float32 [N, 2, H, W], pixels (x, y): from the frame's pixels to where the context shows them
    occluded: Tensor  # float32 [N, 1, H, W] in {0, 1}, in the frame's coordinates: 1 where the context does not show it
    moving: Tensor | None  # float32 [N, 1, H, W] in {0, 1}: the moving parts; None without object motion


@torch.no_grad()
def make_augmented_views(
    frames: Tensor, config: AugmentedViewConfig, random: SampleRandom, background: Tensor | None = None
) -> AugmentedViews:
    """A random view of each of the frames [N, 3, H, W] in [-1, 1].

    `random` has numbers for N samples. `background` [N, 3, H, W], the median frame of each frame's clip, is required
    for object motion. The distortion is elastic after affine, a(p) = P(p) - p + e(P(p)); its inverse applies
    `invert_flow`'s g of the pixel, then the exact inverse of the affine part: f(q) = P^-1(q + g(q)) - q. (The
    public code adds the two inverses.) Computed in float32, under autocast too.
    """
    (count, _, height, width), device = frames.shape, frames.device
    with torch.autocast(device.type, enabled=False):
        pixels = frames.float()
        distortion, flow = _distortion(height, width, config, random)
        views, covered, parts = warp(pixels, distortion), torch.zeros(count, 1, height, width, device=device), None
        if config.object_motion is not None:
            if background is None:
                raise ValueError("background (=None) must be given for views with object_motion")
            behind = background.float()
            parts = sample_parts(pixels, behind, config.object_motion.fraction, random)
            motion = sample_similarity(height, width, config.object_motion, random)
            views, flow, covered = move_parts(pixels, views, distortion, flow, parts, motion, warp(behind, distortion))
        if config.blur > 0:
            views = blur(views, uniform(random, 0, config.blur))
        occlusion = sample_occlusion(height, width, config.occlusion, config.smoothness, random)
        context = torch.where(occlusion > 0, _occluder(views, config), views)
        occluded = torch.maximum(covered, occluded_in_target(occlusion, flow))
        return AugmentedViews(context.to(frames.dtype), flow, occluded, parts)


def _distortion(height: int, width: int, config: AugmentedViewConfig, random: SampleRandom) -> tuple[Tensor, Tensor]:
    """a and f [N, 2, H, W] in pixels: from a view to its frame, and back."""
    pixels = pixel_grid(height, width, random.device)
    motion = sample_similarity(height, width, config, random)
    to_frame, to_view = motion.apply(pixels), pixels
    if config.elastic > 0:
        noise = smooth_noise((2, height, width), config.smoothness, random)
        elastic = config.elastic * height * noise
        to_frame, to_view = to_frame + warp(elastic, to_frame - pixels), pixels + invert_flow(elastic)
    return to_frame - pixels, motion.invert(to_view) - pixels


def _occluder(views: Tensor, config: AugmentedViewConfig) -> Tensor:
    """[N, 3, H, W]: what appears where views [N, 3, H, W] are occluded.

    An occluder in a video looks like any part of one. Grey can be recognised without the frame that is decoded, and a
    mask that has learnt to recognise grey stays open in videos. Views are exchanged in pairs, whatever process they are
    in if it has an even number; a last one without a partner is mirrored.
    """
    if config.occluder == "grey":
        return torch.zeros_like(views)
    paired = len(views) // 2 * 2
    exchanged = views[:paired].unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return torch.cat([exchanged, views[paired:].flip(3)])


def blur(frames: Tensor, sigma: Tensor) -> Tensor:
    """Frames [N, C, H, W] filtered by Gaussians of `sigma` [N] pixels (0: unchanged); border pixels are repeated."""
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=frames.device)
    weights = torch.exp(-0.5 * (offsets / sigma.clamp_min(1e-3)[:, None]) ** 2)  # 1e-3: no 0 / 0 at the centre
    kernel = (weights / weights.sum(1, keepdim=True)).repeat_interleave(frames.shape[1], 0)[:, None]
    planes = functional.pad(frames, (BLUR_RADIUS,) * 4, "replicate").flatten(0, 1)[None]
    rows_blurred = functional.conv2d(planes, kernel[:, :, None, :], groups=len(kernel))
    return functional.conv2d(rows_blurred, kernel[:, :, :, None], groups=len(kernel)).view_as(frames)
