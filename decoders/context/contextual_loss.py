"""The contextual loss of CCVS (https://arxiv.org/abs/2107.08037), equation 7, at every level.

Flows are [N, 2, h, w], coarse to fine, each in pixels of its own grid; mask logits m are [N, 1, h, w], sigma(m) -> 1
where the context does not help. Targets are averaged over the area of a level's pixels. Computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.decoders.context.augmented_views import AugmentedViews
from tokenreel.replicas import mean_over_processes, process_count

STATIC_WEIGHT = 0.3  # of the flow loss outside of moving parts, in views with object motion


def flow_loss(flows: Sequence[Tensor], views: AugmentedViews) -> Tensor:
    """The squared error of flows against the true flow of the views, summed over levels.

    In pixels of the *coarsest* grid at every level, as in the public code, so that levels do not weigh by their size;
    mean over x, y and pixels, each weighted by its visible fraction, because the flow of an occluded pixel cannot be
    known. (The public code drops pixels that are half occluded or more.)

    Moving parts, a few percent of the pixels, have a mean of their own: in a common mean, zero flow would soon be the
    best guess.
    """
    with torch.autocast(views.flow.device.type, enabled=False):
        return torch.stack([_flow_loss(flow.float(), flows[0], views) for flow in flows]).sum()


def _flow_loss(flow: Tensor, coarsest: Tensor, views: AugmentedViews) -> Tensor:
    target = _resize(views.flow, flow) * _scale(views.flow, coarsest)
    error = (flow * _scale(flow, coarsest) - target).square().mean(1, keepdim=True)
    visible = 1 - _resize(views.occluded, flow)
    if views.moving is None:
        return _mean(error, visible)
    moving = visible * _resize(views.moving, flow)
    return _mean(error, moving) + STATIC_WEIGHT * _mean(error, visible - moving)


def _mean(error: Tensor, weight: Tensor) -> Tensor:
    total = mean_over_processes(weight.sum())  # the batch's, so that the loss is its weighted mean
    return (weight * error).sum() / total.clamp_min(1 / process_count())  # below one pixel it is not scaled up


def mask_loss(logits: Sequence[Tensor], occluded: Tensor) -> Tensor:
    """|o' - sigma(m)|^2, mean over all pixels, summed over levels, as in equation 7, with the polarity of equation 1
    (as printed, the two contradict each other). `occluded` [N, 1, H, W] is that of the views.

    The public code only asks for 1 where occluded, at the finest level, and leaves the rest to the reconstruction
    losses; a mask that is 1 everywhere, which never uses the context, then has no loss.
    """
    with torch.autocast(occluded.device.type, enabled=False):
        levels = [functional.mse_loss(level.float().sigmoid(), _resize(occluded, level)) for level in logits]
        return torch.stack(levels).sum()


def _resize(field: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(field.float(), size=like.shape[2:], mode="area")


def _scale(source: Tensor, target: Tensor) -> Tensor:
    """[1, 2, 1, 1]: factors from displacements (x, y) in pixels of the source's grid to pixels of the target's."""
    ratio = [target.shape[3] / source.shape[3], target.shape[2] / source.shape[2]]
    return torch.tensor(ratio, device=source.device).view(1, 2, 1, 1)
