"""Object motion in augmented views: moving parts of a clip, cut out and moved as one over the background.

The smooth distortions of CCVS (https://arxiv.org/abs/2107.08037, section 3.2) have a flow without edges and uncover
nothing. Objects that move do both, and cover a small part of a frame. Here the moving parts are the pixels that differ
from the clip's background (its median frame). This assumes a static camera: if the camera moves, nearly every pixel
differs, and nearly everything is moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreel.decoders.context.occlusion import differs, occluded_in_target, sample_occlusion
from tokenreel.decoders.context.similarity_transform import SimilarityTransform
from tokenreel.decoders.context.warp import pixel_grid, warp
from tokenreel.errors import ConfigError
from tokenreel.sample_random import SampleRandom

PART_SMOOTHNESS = 0.25  # of the mask that selects parts, as a fraction of the height: parts the size of an object


@dataclass(frozen=True)
class ObjectMotionConfig:
    """Which fraction of a clip's moving parts is moved in a view, and how far: about as far as between two frames.

    Much longer motions than a clip's own teach the flow little (docs/log.md).
    """

    fraction: float = 0.8  # mean fraction of the pixels that differ from the background
    zoom: float = 0.05  # magnification is uniform in 1 - zoom to 1 + zoom
    rotation: float = 8.0  # largest angle in either direction, degrees
    translation: float = 0.08  # largest shift in either direction, as a fraction of the width and of the height

    def __post_init__(self) -> None:
        limits = {"fraction": 1, "zoom": 0.5, "rotation": 180, "translation": 1}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ConfigError(f"{name} (={getattr(self, name)}) must be from 0 to {limit:g}")


def sample_parts(frames: Tensor, background: Tensor, fraction: float, random: SampleRandom) -> Tensor:
    """Masks [N, 1, H, W] in {0, 1}: a mean `fraction` of what differs between frames and background [N, 3, H, W]."""
    moving = differs(frames, background)
    if fraction == 1:
        return moving
    height, width = frames.shape[2:]
    return moving * sample_occlusion(height, width, fraction, PART_SMOOTHNESS, random)


def move_parts(
    frames: Tensor,
    view: Tensor,
    distortion: Tensor,
    flow: Tensor,
    parts: Tensor,
    motion: SimilarityTransform,
    background: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The view, its flow and the pixels covered after `parts` [N, 1, H, W] in {0, 1} of the frames [N, 3, H, W] have
    moved by `motion` instead of by the view's distortion; `background` [N, 3, H, W] appears where they were.

    `distortion` [N, 2, H, W] leads from the view's pixels to the frame's, `flow` back; both in pixels. `covered`
    [N, 1, H, W] in {0, 1} is in the frame's coordinates: 1 where a moved part now hides another pixel.
    """
    pixels = pixel_grid(frames.shape[2], frames.shape[3], frames.device)
    part_flow, part_distortion = motion.invert(pixels) - pixels, motion.apply(pixels) - pixels
    before, after = (1 - occluded_in_target(1 - parts, offsets) for offsets in (distortion, part_distortion))
    view = torch.where(before > 0, background, view)
    view = torch.where(after > 0, warp(frames, part_distortion), view)
    covered = (1 - parts) * (1 - occluded_in_target(1 - after, flow))
    return view, torch.where(parts > 0, part_flow, flow), covered
