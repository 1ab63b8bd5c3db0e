"""Warping against indexing, and at the border."""

from __future__ import annotations

import torch

from tokenreel.decoders.context.warp import warp


def test_an_integer_flow_is_exact() -> None:
    torch.manual_seed(0)
    features, (height, width) = torch.randn(2, 3, 11, 13), (11, 13)
    flow = torch.randint(-17, 18, (2, 2, height, width))  # also beyond the frame
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rows, columns = (y + flow[:, 1]).clamp(0, height - 1), (x + flow[:, 0]).clamp(0, width - 1)
    expected = torch.stack([frame[:, r, c] for frame, r, c in zip(features, rows, columns, strict=True)])
    torch.testing.assert_close(warp(features, flow.float()), expected, rtol=0, atol=1e-5)  # coordinates round


def test_between_pixels_it_is_linear() -> None:
    ramp = torch.arange(7.0).expand(1, 1, 5, 7)
    flow = torch.stack([torch.full((5, 7), 0.25), torch.full((5, 7), -0.5)])[None]
    torch.testing.assert_close(warp(ramp, flow), (ramp + 0.25).clamp(max=6))


def test_bf16_features_are_warped_by_exact_coordinates() -> None:
    """In bf16 a coordinate beyond 128 has steps of a whole pixel."""
    features = torch.arange(257.0).remainder(5).expand(1, 1, 3, 257).bfloat16()
    flow = torch.zeros(1, 2, 3, 257)
    flow[:, 0] = 1
    with torch.autocast("cpu", torch.bfloat16):
        warped = warp(features, flow)
    assert warped.dtype == torch.bfloat16
    assert torch.equal(warped[..., :-1], features[..., 1:])
