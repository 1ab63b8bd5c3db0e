"""Parts of a view that move on their own, before what lies behind them, with the truth about it. Knows no networks.

The smooth distortions of CCVS (https://arxiv.org/abs/2107.08037, section 3.2) have no edges in their flow and uncover
nothing. What moves in a video does both, and is a small part of it. Here that part is what differs from what the clip
shows most of the time; it is cut out, moved as one, and laid over that picture. This takes a camera that stands still;
under one that moves nearly all differs, and all of it moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreel.decoders.context.occlusion import draw_hidden, occluded_in_target, unlike
from tokenreel.decoders.context.similarity_transform import Similarity
from tokenreel.decoders.context.warp import pixel_grid, warp
from tokenreel.errors import ConfigError

CUT = 0.25  # smoothness of what cuts parts into pieces, as a share of the height: pieces the size of an object


@dataclass(frozen=True)
class MovingConfig:
    """How much of what moves in a clip moves on its own in a view, and how far: about as far as from frame to frame.

    On Tabletop, where moving pixels go 3.4 of 64 a frame, parts that go up to 0.2 of the height teach nothing: the
    endpoint error of a small U-Net trained on such views is 0.90 of no flow's after 400 steps, up to 0.1 0.74.
    """

    share: float = 0.8  # mean share of what differs from the still picture
    zoom: float = 0.05  # magnification is drawn from 1 - zoom to 1 + zoom
    rotation: float = 8.0  # largest angle to either side, degrees
    translation: float = 0.08  # largest shift to either side, as a share of the width and of the height

    def __post_init__(self) -> None:
        limits = {"share": 1, "zoom": 0.5, "rotation": 180, "translation": 1}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ConfigError(f"moving.{name} (={getattr(self, name)}) must be from 0 to {limit:g}")


def draw_parts(frames: Tensor, still: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """[N, 1, H, W] in {0, 1}: `share` on average of what differs between frames [N, 3, H, W] and `still`."""
    count, _, height, width = frames.shape
    differs = unlike(frames, still)
    if share == 1:
        return differs
    return differs * draw_hidden((count, 1, height, width), share, CUT, generator, frames.device)


def move_parts(
    frames: Tensor, view: Tensor, distortion: Tensor, flow: Tensor, parts: Tensor, motion: Similarity, behind: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A view of frames [N, 3, H, W] in which `parts` [N, 1, H, W] in {0, 1} of the frames lie where `motion` takes
    them, instead of where the view's distortion has them; there it shows `behind` [N, 3, H, W].

    `distortion` [N, 2, H, W] leads from the view's pixels to the frame's, `flow` back; both in pixels. Returns the
    view, the flow, and `covered` [N, 1, H, W] in {0, 1}: 1 where, in the frame's coordinates, a part now lies above.
    """
    pixels = pixel_grid(frames.shape[2], frames.shape[3], frames.device)
    way, source = motion.invert(pixels) - pixels, motion.apply(pixels) - pixels
    left, arrived = (1 - occluded_in_target(1 - parts, seen) for seen in (distortion, source))
    view = torch.where(left > 0, behind, view)
    view = torch.where(arrived > 0, warp(frames, source), view)
    covered = (1 - parts) * (1 - occluded_in_target(1 - arrived, flow))
    return view, torch.where(parts > 0, way, flow), covered
