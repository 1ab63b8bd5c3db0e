"""Augmented views of frames with known flow and occlusion, which teach the flow module. Knows no networks.

CCVS (https://arxiv.org/abs/2107.08037), section 3.2: the context is the distorted view, x_c = o_c * B(A(x)), and the
target the frame itself, because targets with distortions would teach the decoder to make such defects. The true flow is
therefore the inverse of the distortion. Where it follows or leaves the public code is written at each part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.decoders.context.flow_inversion import invert_flow
from tokenreel.decoders.context.object_motion import MovingConfig, draw_parts, move_parts
from tokenreel.decoders.context.occlusion import draw_hidden, occluded_in_target, smooth_noise
from tokenreel.decoders.context.similarity_transform import draw_similarity, uniform
from tokenreel.decoders.context.warp import pixel_grid, warp
from tokenreel.errors import ConfigError

BLUR_RADIUS = 6  # pixels to either side of the kernel's middle (13 in all, as the public code's largest)
LARGEST_BLUR = BLUR_RADIUS / 3  # pixels; beyond, the kernel cuts off what a Gaussian has
STEEPEST = 0.5  # largest elastic / smoothness; the field's slopes then have a standard deviation of 0.35


@dataclass(frozen=True)
class ViewConfig:
    """How strong each part of a view is; 0 switches it off.

    The public code filters noise from U(-1, 1) by a Gaussian of s x H pixels and multiplies by a x H, which makes
    displacements with a standard deviation of sqrt(1/3) a / (2 sqrt(pi) s) pixels, whatever H is. That is 4.9 pixels
    for a = 3, s = 0.1 (BAIR and UCF-101 with H = 256: elastic 0.019; drums with H = 96: 0.051, here at most 0.05) and
    1.1 pixels for a = 2, s = 0.3 (Kinetics with H = 256, scaled to 64 afterwards: 0.0042). Rotation and translation are
    named in the paper only, without a size; its code has none.
    """

    elastic: float = 0.02  # standard deviation of the displacement along each axis, as a share of the height
    smoothness: float = 0.1  # Gaussian sigma of elastic field and occlusion, as a share of the height
    zoom: float = 0.1  # magnification is drawn from 1 - zoom to 1 + zoom
    rotation: float = 5.0  # largest angle to either side, degrees
    translation: float = 0.05  # largest shift to either side, as a share of the width and of the height
    blur: float = 2.0  # sigma is drawn from 0 to this, pixels
    occlusion: float = 0.5  # mean share of pixels that are hidden
    hidden: Literal["other", "grey"] = "other"  # what is seen there: the view of the frame before in the batch; CCVS: 0
    moving: MovingConfig | None = None  # parts that move on their own; not in CCVS
    flow_only: bool = False  # teach nothing else: neither fusion masks nor decoding from a view's pixels; CCVS: false
    per_clip: int = 1  # frames of each clip that are seen in a view in a training step; each costs a decoding

    def __post_init__(self) -> None:
        limits = {"zoom": 0.5, "rotation": 180, "translation": 0.5, "blur": LARGEST_BLUR, "occlusion": 0.99}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ConfigError(f"{name} (={getattr(self, name)}) must be from 0 (off) to {limit:g}")
        if self.per_clip < 1:
            raise ConfigError(f"per_clip (={self.per_clip}) must be at least 1 frame")
        if not 0 < self.smoothness <= 1:
            raise ConfigError(f"smoothness (={self.smoothness}) must be above 0 and at most 1, a share of the height")
        if not 0 <= self.elastic <= STEEPEST * self.smoothness:
            raise ConfigError(
                f"elastic (={self.elastic}) must be from 0 (off) to half of smoothness (={self.smoothness}): "
                "stronger, it folds frames over themselves, and no flow undoes that"
            )


@dataclass(frozen=True)
class View:
    """A context for each of N frames, and the truth about it."""

    context: Tensor  # [N, 3, H, W], the dtype of the frames; something else is seen in hidden parts
    flow: Tensor  # float32 [N, 2, H, W], pixels (x, y): from the frame's pixels to where the context shows them
    occluded: Tensor  # float32 [N, 1, H, W] in {0, 1}, in the frame's coordinates: 1 where the context does not show it
    moving: Tensor | None  # float32 [N, 1, H, W] in {0, 1}: the parts that move on their own; None: nothing is meant to


@torch.no_grad()
def make_view(
    frames: Tensor, config: ViewConfig, generator: torch.Generator | None, still: Tensor | None = None
) -> View:
    """Frames [N, 3, H, W] in [-1, 1] -> a random view of each. `generator` is on the frames' device; None: torch's own.

    `still` [N, 3, H, W], what the clip of each frame shows most of the time, is needed where parts move on their own.
    The distortion is elastic after affine, a(p) = P(p) - p + e(P(p)), so that its inverse is g of the pixel, by
    `invert_flow`, then exactly the affine part's: f(q) = P^-1(q + g(q)) - q. (The public code adds the two inverses.)
    Everything is float32, under autocast too.
    """
    (count, _, height, width), device = frames.shape, frames.device
    with torch.autocast(device.type, enabled=False):
        pixels = frames.float()
        distortion, flow = _distortion((count, height, width), config, generator, device)
        view, covered, parts = warp(pixels, distortion), torch.zeros(count, 1, height, width, device=device), None
        if config.moving is not None:
            if still is None:
                raise ValueError("still must be given where parts move on their own (moving)")
            behind, parts = still.float(), draw_parts(pixels, still.float(), config.moving.share, generator)
            motion = draw_similarity((count, height, width), config.moving, generator, device)
            view, flow, covered = move_parts(pixels, view, distortion, flow, parts, motion, warp(behind, distortion))
        if config.blur > 0:
            view = blur(view, uniform((count,), 0, config.blur, generator, device))
        hidden = draw_hidden((count, 1, height, width), config.occlusion, config.smoothness, generator, device)
        shown = torch.where(hidden > 0, _something_else(view, config), view)
        return View(shown.to(frames.dtype), flow, torch.maximum(covered, occluded_in_target(hidden, flow)), parts)


def _distortion(
    shape: tuple[int, int, int], config: ViewConfig, generator: torch.Generator | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """a and f [N, 2, H, W] in pixels, for `shape` (N, H, W): from a view to its frame, and back."""
    count, height, width = shape
    pixels = pixel_grid(height, width, device)
    motion = draw_similarity(shape, config, generator, device)
    seen, back = motion.apply(pixels), pixels
    if config.elastic > 0:
        noise = smooth_noise((count, 2, height, width), config.smoothness, generator, device)
        elastic = config.elastic * height * noise
        seen, back = seen + warp(elastic, seen - pixels), pixels + invert_flow(elastic)
    return seen - pixels, motion.invert(back) - pixels


def _something_else(views: Tensor, config: ViewConfig) -> Tensor:
    """What is seen of views [N, 3, H, W] where parts of them are hidden.

    What hides something in a video looks like any part of one. Grey is found without looking at
    what is decoded, and a mask that has learnt that stays open in videos: on Tabletop, after 500 steps, videos decoded
    one frame from the other come out 0.4 dB worse.
    """
    if config.hidden == "grey":
        return torch.zeros_like(views)
    return views.roll(1, 0) if len(views) > 1 else views.flip(3)


def blur(frames: Tensor, sigma: Tensor) -> Tensor:
    """Frames [N, C, H, W] under a Gaussian of `sigma` [N] pixels each (0: as they are), border pixels repeated."""
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=frames.device)
    weights = torch.exp(-0.5 * (offsets / sigma.clamp_min(1e-3)[:, None]) ** 2)  # 1e-3: no 0 / 0 at the middle
    kernel = (weights / weights.sum(1, keepdim=True)).repeat_interleave(frames.shape[1], 0)[:, None]
    planes = functional.pad(frames, (BLUR_RADIUS,) * 4, "replicate").flatten(0, 1)[None]
    across = functional.conv2d(planes, kernel[:, :, None, :], groups=len(kernel))
    return functional.conv2d(across, kernel[:, :, :, None], groups=len(kernel)).view_as(frames)
