"""Parts of a view that move on their own, before what lies behind them, with the truth about it. Knows no networks.

The smooth distortions of CCVS (https://arxiv.org/abs/2107.08037, section 3.2) have no edges in their flow and uncover
nothing. What moves in a video does both: it covers what was behind it in one frame and shows it in the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreel.decoders.context.occlusion import draw_hidden, occluded_in_target
from tokenreel.decoders.context.warp import warp


def move_parts(
    frames: Tensor, view: Tensor, distortion: Tensor, flow: Tensor, parts: Tensor, shift: Tensor, behind: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A view of frames [N, 3, H, W] in which `parts` [N, 1, H, W] in {0, 1} of the frames lie `shift` [N, 2] pixels
    (x, y) off their place, instead of where the view's distortion has them; there it shows `behind` [N, 3, H, W].

    `distortion` [N, 2, H, W] leads from the view's pixels to the frame's, `flow` back; both in pixels. Returns the
    view, the flow, and `covered` [N, 1, H, W] in {0, 1}: 1 where, in the frame's coordinates, a part now lies above.
    """
    way = shift[:, :, None, None].expand_as(flow)
    left, arrived = (1 - occluded_in_target(1 - parts, source) for source in (distortion, -way))
    view = torch.where(left > 0, behind, view)
    view = torch.where(arrived > 0, warp(frames, -way), view)
    covered = (1 - parts) * (1 - occluded_in_target(1 - arrived, flow))
    return view, torch.where(parts > 0, way, flow), covered


def draw_parts(
    frames: Tensor, share: float, smoothness: float, reach: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Blobs that are `share` of all pixels on average, [N, 1, H, W] in {0, 1}, and for each frame a shift [N, 2] of up
    to `reach` of the width and of the height.
    """
    count, _, height, width = frames.shape
    parts = draw_hidden((count, 1, height, width), share, smoothness, generator, frames.device)
    sides = torch.tensor([width, height], device=frames.device)
    drawn = torch.rand(count, 2, generator=generator, device=frames.device)
    return parts, (2 * drawn - 1) * reach * sides
