"""Flow levels: what is estimated at a position stays at it, and displacements follow the grid that they are on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tokenreel.decoders.context.augmented_views import AugmentedViews
from tokenreel.decoders.context.contextual_loss import flow_loss
from tokenreel.decoders.context.correlation import local_correlation
from tokenreel.decoders.context.flow import COARSE_LEVELS, RADIUS, Flow, FlowConfig, FlowLevel, UpsampledFlow
from tokenreel.decoders.context.warp import pixel_grid, warp


class Estimate(nn.Module):
    """Instead of convolutions: at each correlated position, the best displacement of the correlation."""

    def forward(self, correlation: Tensor) -> Tensor:
        best = correlation.argmax(1, keepdim=True)
        dx, dy = best % (2 * RADIUS + 1) - RADIUS, best // (2 * RADIUS + 1) - RADIUS
        return torch.cat([dx, dy, torch.zeros_like(dx)], 1).float()


class Positions(nn.Module):
    """Instead of convolutions: the position (x, y) of what is correlated."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, correlation: Tensor) -> Tensor:
        grid = self.stride * pixel_grid(*correlation.shape[2:], correlation.device).expand(len(correlation), -1, -1, -1)
        return torch.cat([grid, 0 * grid[:, :1]], 1)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_what_is_found_at_a_position_stays_there(stride: int) -> None:
    """A ramp comes back as a ramp: 8, 9, not 7.5, 8.5."""
    level = FlowLevel(16, 0, FlowConfig(widths=(3,)))
    level.stride, level.matching = stride, Positions(stride)
    flow = level(torch.randn(2, 16, 13, 19), torch.randn(2, 1, 16, 13, 19), None).displacement
    expected = pixel_grid(13, 19, flow.device)[:, None].expand_as(flow)  # 12 and 18 are multiples of every stride
    torch.testing.assert_close(flow, expected)


@pytest.mark.parametrize("level", [0, COARSE_LEVELS])
def test_a_shifted_context_is_found_where_the_flow_leads(level: int) -> None:
    """What the decoder shows at p is in the context at p + flow; warping by it undoes the shift."""
    torch.manual_seed(0)
    context, (dx, dy) = torch.randn(1, 16, 14, 22), (2, -3)
    decoded = context.roll((-dy, -dx), (2, 3))
    flow_level = FlowLevel(16, level, FlowConfig(widths=(3,)))
    flow_level.matching = Estimate()
    flow = flow_level(decoded, context[:, None], None).displacement[:, 0]
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(flow[inside], torch.tensor([2.0, -3.0]).view(1, 2, 1, 1).expand_as(flow)[inside])
    torch.testing.assert_close(warp(context, flow)[inside], decoded[inside], rtol=0, atol=1e-5)


def test_an_upsampled_flow_leads_to_the_same_places() -> None:
    """An affine map of the plane, sampled at the centres of coarse pixels, is the map at the centres of fine ones."""

    def displacements(height: int, width: int, size: float) -> Tensor:
        """[1, 2, h, w] in pixels, which are `size` wide; on that plane a pixel begins at its index."""
        points = (pixel_grid(height, width, torch.device("cpu")) + 0.5) * size
        x, y = points[:, :1], points[:, 1:]
        return torch.cat([0.25 * x - 0.5 * y + 3, 0.125 * y + 0.25 * x - 7], 1) / size

    coarse, fine = displacements(5, 7, 2), displacements(10, 14, 1)
    logits = torch.zeros(1, 1, 1, 5, 7)
    upsampled = UpsampledFlow()(fine[:, None], fine[:, None], Flow(coarse[:, None], logits)).displacement[:, 0]
    torch.testing.assert_close(upsampled[..., 1:-1, 1:-1], fine[..., 1:-1, 1:-1])
    views = AugmentedViews(torch.empty(0), fine, torch.zeros(1, 1, 10, 14), None)
    assert flow_loss([coarse, fine], views) < 1e-10  # the target of a level is the true flow at its centres


def test_the_central_channel_of_the_correlation_is_no_displacement() -> None:
    features = torch.randn(1, 5, 7, 11)
    for stride in (1, 2):
        central = local_correlation(features, features, RADIUS, stride)[:, (2 * RADIUS + 1) ** 2 // 2]
        torch.testing.assert_close(central, features.square().mean(1)[:, ::stride, ::stride])
