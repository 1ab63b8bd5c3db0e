"""The contextual loss of CCVS (https://arxiv.org/abs/2107.08037), equation 7, at every level. Knows no networks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def contextual_loss(
    flows: list[Tensor], occlusions: list[Tensor], view_flow: Tensor, view_occluded: Tensor
) -> dict[str, Tensor]:
    """How far estimated flows and masks are from a view's truth: {"flow": scalar, "mask": scalar}, sums over levels.

    `flows` [N, 2, h, w], coarse to fine, each in pixels of its own grid; `occlusions` [N, 1, h, w] are logits m with
    sigma(m) -> 1 where the context is occluded. `view_flow` [N, 2, H, W] in pixels and `view_occluded` [N, 1, H, W] in
    {0, 1} are those of a `View`. Both truths are averaged over the area of a level's pixels. All in float32.

    Flow: the squared error in pixels of the *coarsest* grid at every level, as in the public code, so that no level
    outweighs another by its size; mean over x, y and pixels, each weighted by its visible share, because the flow of
    what is not to be seen cannot be known. (The public code drops pixels that are half occluded or more.)

    Mask: |o' - sigma(m)|^2 at all pixels and levels, as equation 7 says, with the polarity of equation 1 (printed, the
    two are opposed). The public code asks for 1 where occluded at the finest level alone and leaves the rest to the
    reconstruction losses; a mask that is 1 everywhere, which never uses the context, is then at no loss.
    """
    with torch.autocast(view_flow.device.type, enabled=False):
        losses = [
            (_flow_loss(flow.float(), flows[0], view_flow, view_occluded), _mask_loss(logits.float(), view_occluded))
            for flow, logits in zip(flows, occlusions, strict=True)
        ]
    flow_losses, mask_losses = zip(*losses, strict=True)
    return {"flow": torch.stack(flow_losses).sum(), "mask": torch.stack(mask_losses).sum()}


def _flow_loss(flow: Tensor, coarsest: Tensor, view_flow: Tensor, view_occluded: Tensor) -> Tensor:
    target = _to_grid(view_flow, flow) * _scale(view_flow, coarsest)
    visible = 1 - _to_grid(view_occluded, flow)
    error = (flow * _scale(flow, coarsest) - target).square().mean(1, keepdim=True)
    return (visible * error).sum() / visible.sum().clamp_min(1e-6)  # nothing visible: no loss


def _mask_loss(logits: Tensor, view_occluded: Tensor) -> Tensor:
    return functional.mse_loss(logits.sigmoid(), _to_grid(view_occluded, logits))


def _to_grid(field: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(field.float(), size=like.shape[2:], mode="area")


def _scale(source: Tensor, target: Tensor) -> Tensor:
    """[1, 2, 1, 1]: what makes displacements (x, y) on the source's grid ones on the target's."""
    ratio = [target.shape[3] / source.shape[3], target.shape[2] / source.shape[2]]
    return torch.tensor(ratio, device=source.device).view(1, 2, 1, 1)
