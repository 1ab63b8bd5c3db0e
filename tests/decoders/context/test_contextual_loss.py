"""The contextual loss is zero for true flows and masks, positive for others, and equal to brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenreel.decoders.context.augmented_views import AugmentedViews
from tokenreel.decoders.context.contextual_loss import STATIC_WEIGHT, flow_loss, mask_loss

SIZES = ((3, 5), (6, 10), (12, 20))  # coarse to fine; the last is that of the views


def random_ground_truth(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    flow = torch.randn(2, 2, 12, 20, generator=generator) * 3
    return flow, (torch.rand(2, 1, 12, 20, generator=generator) > 0.6).float()


def blocks(field: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Means over blocks of pixels, in NumPy: [N, C, H, W] -> [N, C, h, w]."""
    n, c, height, width = field.shape
    h, w = size
    return field.numpy().astype(np.float64).reshape(n, c, h, height // h, w, width // w).mean((3, 5))


def ground_truth_at(view_flow: Tensor, occluded: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The flow in the level's own pixels, and logits of the occluded fraction."""
    flow = torch.from_numpy(blocks(view_flow, size)).float() * (size[0] / 12)
    fraction = torch.from_numpy(blocks(occluded, size)).float()
    return flow, torch.logit(fraction.clamp(1e-7, 1 - 1e-7))


def views_of(flow: Tensor, occluded: Tensor, moving: Tensor | None = None) -> AugmentedViews:
    return AugmentedViews(torch.zeros(len(flow), 3, *flow.shape[2:]), flow, occluded, moving)


def contextual(flows: list[Tensor], logits: list[Tensor], view_flow: Tensor, occluded: Tensor) -> dict[str, Tensor]:
    """Equation 7, both of its parts."""
    return {"flow": flow_loss(flows, views_of(view_flow, occluded)), "mask": mask_loss(logits, occluded)}


def test_loss_is_zero_at_the_truth_and_grows_away_from_it() -> None:
    view_flow, occluded = random_ground_truth(1)
    flows, logits = map(list, zip(*(ground_truth_at(view_flow, occluded, size) for size in SIZES), strict=True))
    exact = contextual(flows, logits, view_flow, occluded)
    assert exact["flow"] < 1e-9
    assert exact["mask"] < 1e-9
    for level in range(len(SIZES)):
        previous = exact
        for off in (0.1, 0.3):
            moved = [flow + off * (i == level) for i, flow in enumerate(flows)]
            changed = [logit * (1 - off * (i == level)) for i, logit in enumerate(logits)]
            loss = contextual(moved, changed, view_flow, occluded)
            assert loss["flow"] > previous["flow"]
            assert loss["mask"] > previous["mask"]
            previous = loss


def test_levels_are_scaled_and_weighted_as_by_brute_force() -> None:
    """Two levels: errors in pixels of the coarsest grid, weighted by the visible fraction; masks everywhere."""
    view_flow, occluded = random_ground_truth(2)
    generator = torch.Generator().manual_seed(3)
    flows = [torch.randn(2, 2, *size, generator=generator) for size in SIZES[:2]]
    logits = [torch.randn(2, 1, *size, generator=generator) for size in SIZES[:2]]
    expected_flow = expected_mask = 0.0
    for (h, w), flow, logit in zip(SIZES[:2], flows, logits, strict=True):
        truth, hidden = blocks(view_flow, (h, w)), blocks(occluded, (h, w))
        total = weights = mask = 0.0
        for n, y, x in np.ndindex(2, h, w):
            found = flow[n, :, y, x].double().numpy() / (h / 3)  # its own pixels -> those of the 3x5 grid
            target = truth[n, :, y, x] / 4  # 12x20 -> 3x5
            total += (1 - hidden[n, 0, y, x]) * ((found - target) ** 2).mean()
            weights += 1 - hidden[n, 0, y, x]
            mask += (1 / (1 + np.exp(-logit[n, 0, y, x].item())) - hidden[n, 0, y, x]) ** 2
        expected_flow += total / weights
        expected_mask += mask / (2 * h * w)
    loss = contextual(flows, logits, view_flow, occluded)
    assert loss["flow"].item() == pytest.approx(expected_flow, rel=1e-5)
    assert loss["mask"].item() == pytest.approx(expected_mask, rel=1e-5)


def test_moving_parts_have_a_mean_of_their_own() -> None:
    view_flow, occluded = random_ground_truth(5)
    moving = torch.zeros(2, 1, 12, 20)
    moving[..., 4:8, 8:16] = 1
    flow = torch.zeros(2, 2, 12, 20)
    found = flow_loss([flow], views_of(view_flow, occluded, moving))
    error, visible = view_flow.square().mean(1, keepdim=True), occluded == 0
    parts, rest = error[visible & (moving > 0)].mean(), error[visible & (moving == 0)].mean()
    assert found.item() == pytest.approx((parts + STATIC_WEIGHT * rest).item(), rel=1e-5)


def test_the_flow_loss_is_zero_if_everything_is_occluded() -> None:
    view_flow, _ = random_ground_truth(4)
    hidden = torch.ones(2, 1, 12, 20)
    flow = torch.randn(2, 2, 3, 5, requires_grad=True)
    loss = contextual([flow], [torch.full((2, 1, 3, 5), 20.0)], view_flow, hidden)
    assert loss["flow"] == 0
    assert loss["mask"] < 1e-9
    (gradient,) = torch.autograd.grad(loss["flow"], flow)
    assert torch.equal(gradient, torch.zeros_like(flow))


def test_both_axes_have_their_own_scale_and_autocast_changes_nothing() -> None:
    """A grid that is coarser along y than along x: 12x20 -> 3x10."""
    view_flow = torch.tensor([8.0, 4.0]).view(1, 2, 1, 1).expand(2, 2, 12, 20)
    visible = torch.zeros(2, 1, 12, 20)
    flow = torch.tensor([4.0, 1.0]).view(1, 2, 1, 1).expand(2, 2, 3, 10).contiguous()
    logits = torch.full((2, 1, 3, 10), 0.3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = contextual([flow], [logits], view_flow, visible)
    assert loss["flow"] < 1e-12
    assert loss["mask"].item() == pytest.approx(torch.sigmoid(torch.tensor(0.3)).item() ** 2, rel=1e-6)
