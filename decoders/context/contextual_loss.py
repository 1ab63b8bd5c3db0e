"""The contextual loss of CCVS (https://arxiv.org/abs/2107.08037), equation 7, at every level. Knows no networks.

Flows are [N, 2, h, w], coarse to fine, each in pixels of its own grid; logits m are [N, 1, h, w], with sigma(m) -> 1
where the context does not help. Truths are averaged over the area of a level's pixels. All in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.decoders.context.augmented_views import View

STILL_WEIGHT = 0.3  # of what does not move on its own, where something does


def flow_loss(flows: Sequence[Tensor], view: View) -> Tensor:
    """How far flows are from a view's: the squared error, summed over levels.

    In pixels of the *coarsest* grid at every level, as in the public code, so that no level outweighs another by its
    size; mean over x, y and pixels, each weighted by its visible share, because the flow of what is not to be seen
    cannot be known. (The public code drops pixels that are half occluded or more.)

    Parts that move on their own are a few pixels in a hundred, and what a flow is for: they have a mean of their own,
    without which no flow at all is soon the best guess.
    """
    with torch.autocast(view.flow.device.type, enabled=False):
        return torch.stack([_flow_loss(flow.float(), flows[0], view) for flow in flows]).sum()


def _flow_loss(flow: Tensor, coarsest: Tensor, view: View) -> Tensor:
    target = _to_grid(view.flow, flow) * _scale(view.flow, coarsest)
    error = (flow * _scale(flow, coarsest) - target).square().mean(1, keepdim=True)
    visible = 1 - _to_grid(view.occluded, flow)
    if view.moving is None:
        return _mean(error, visible)
    moving = visible * _to_grid(view.moving, flow)
    return _mean(error, moving) + STILL_WEIGHT * _mean(error, visible - moving)


def _mean(error: Tensor, weight: Tensor) -> Tensor:
    return (weight * error).sum() / weight.sum().clamp_min(1)  # less than a pixel counts for less, nothing for nothing


def mask_loss(logits: Sequence[Tensor], occluded: Tensor) -> Tensor:
    """|o' - sigma(m)|^2 at all pixels, summed over levels, as equation 7 says, with the polarity of equation 1
    (printed, the two are opposed). `occluded` is the view's, [N, 1, H, W].

    The public code asks for 1 where occluded at the finest level alone and leaves the rest to the reconstruction
    losses; a mask that is 1 everywhere, which never uses the context, is then at no loss.
    """
    with torch.autocast(occluded.device.type, enabled=False):
        levels = [functional.mse_loss(level.float().sigmoid(), _to_grid(occluded, level)) for level in logits]
        return torch.stack(levels).sum()


def _to_grid(field: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(field.float(), size=like.shape[2:], mode="area")


def _scale(source: Tensor, target: Tensor) -> Tensor:
    """[1, 2, 1, 1]: what makes displacements (x, y) on the source's grid ones on the target's."""
    ratio = [target.shape[3] / source.shape[3], target.shape[2] / source.shape[2]]
    return torch.tensor(ratio, device=source.device).view(1, 2, 1, 1)
