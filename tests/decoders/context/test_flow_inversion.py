"""Inverted displacement fields cancel the original fields."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenreel.decoders.context.flow_inversion import invert_flow
from tokenreel.decoders.context.occlusion import smooth_noise
from tokenreel.decoders.context.warp import pixel_grid, warp
from tokenreel.sample_random import SampleRandom

HEIGHT, WIDTH = 61, 83


def waves(points: Tensor) -> Tensor:
    """A known field at any points [N, 2, h, w], slopes up to 0.35; float64 in, float64 out."""
    x, y = points.unbind(1)
    return torch.stack([2.3 * torch.sin(0.11 * y + 0.07 * x + 0.5), 1.9 * torch.cos(0.13 * x - 0.05 * y)], 1)


def exact_inverse() -> Tensor:
    """By Newton's method on the formula, not on the sampled field: where q + g + waves(q + g) = q."""
    pixels = pixel_grid(HEIGHT, WIDTH, torch.device("cpu")).double()
    points = pixels.clone()
    for _ in range(20):
        x, y = points.unbind(1)
        a, b = 0.11 * y + 0.07 * x + 0.5, 0.13 * x - 0.05 * y
        xx, xy = 1 + 2.3 * 0.07 * a.cos(), 2.3 * 0.11 * a.cos()
        yx, yy = -1.9 * 0.13 * b.sin(), 1 + 1.9 * 0.05 * b.sin()
        off = points + waves(points) - pixels
        steps = torch.stack([yy * off[:, 0] - xy * off[:, 1], xx * off[:, 1] - yx * off[:, 0]], 1)
        points = points - steps / (xx * yy - xy * yx)[:, None]
    assert (points + waves(points) - pixels).abs().max() < 1e-9
    return points - pixels


def test_a_known_field_is_inverted_within_a_hundredth_of_a_pixel() -> None:
    pixels = pixel_grid(HEIGHT, WIDTH, torch.device("cpu"))
    inverse, exact = invert_flow(waves(pixels.double()).float()), exact_inverse()
    points = pixels + exact
    limit = torch.tensor([WIDTH - 1, HEIGHT - 1]).view(1, 2, 1, 1)
    inside = ((points >= 0) & (points <= limit)).all(1)  # beyond the border, the sampled field is not the waves
    error = (inverse - exact).norm(dim=1)[inside]
    assert inside.float().mean() > 0.9
    assert error.max() < 0.01, f"max {error.max():.4f}, mean {error.mean():.4f}"
    assert (exact.norm(dim=1)[inside]).mean() > 1, "the field is trivial"


def random_fields(shape: tuple[int, int, int, int], elastic: float, smoothness: float) -> Tensor:
    random = SampleRandom(4, np.arange(shape[0]), torch.device("cpu"))  # others fold in a few pixels
    return elastic * shape[2] * smooth_noise(shape[1:], smoothness, random)


@pytest.mark.parametrize(("elastic", "smoothness"), [(0.019, 0.1), (0.0042, 0.3), (0.033, 0.1)])
def test_a_field_and_its_inverse_cancel_for_fields_of_the_papers_size(elastic: float, smoothness: float) -> None:
    """g(q) + d(q + g(q)) = 0 within a tenth of a pixel, a hundredth on average."""
    fields = random_fields((3, 2, 127, 151), elastic, smoothness)
    inverse = invert_flow(fields)
    off = (inverse + warp(fields, inverse)).norm(dim=1)
    assert off.mean() < 0.01, f"mean {off.mean():.4f}"
    assert off.quantile(0.99) < 0.1, f"99 % {off.quantile(0.99):.4f}"


def test_a_constant_field_is_inverted_exactly_beyond_the_border_too() -> None:
    field = torch.tensor([3.25, -7.5]).view(1, 2, 1, 1).expand(2, 2, 11, 13)
    torch.testing.assert_close(invert_flow(field), -field, rtol=0, atol=1e-6)


def test_fields_of_a_batch_are_inverted_independently_and_deterministically() -> None:
    fields = random_fields((3, 2, 23, 29), 0.02, 0.3)
    together = invert_flow(fields)
    assert torch.equal(together, invert_flow(fields))
    torch.testing.assert_close(together[1:2], invert_flow(fields[1:2]), rtol=0, atol=1e-6)
