"""Convolutions over boxes of offsets, against one convolution with a masked kernel and against listing locations."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from tokenreel.priors.pixelcnn.masked import BoxConvolution, boxes_before

SHAPE = (3, 5, 7)
NOW = range(1)


def convolution(kernel: int, steps: int = 3) -> BoxConvolution:
    half = kernel // 2
    boxes = [(NOW, range(-half, 0), range(-half, half + 1)), (NOW, NOW, range(-half, 0))]
    result = BoxConvolution(2, 11, [*boxes, *boxes_before((kernel, kernel, kernel), steps)])
    result.reset_parameters()
    torch.nn.init.normal_(result.bias)
    return result


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_boxes_are_a_masked_kernel(kernel: int) -> None:
    """Together they are a cube whose first half, in raster order, is filled, as in PixelCNN's mask A."""
    layer, half, x = convolution(kernel), kernel // 2, torch.randn(2, *SHAPE, 2)
    full = torch.zeros(11, 2, kernel, kernel, kernel)
    for box, weight in zip(layer.boxes, layer.weights, strict=True):
        at = [slice(offsets[0] + half, offsets[-1] + half + 1) for offsets in box]
        full[:, :, *at] = weight.detach()
    steps = min(half, SHAPE[0] - 1)  # a volume reaches no further back
    filled = full[0, 0].flatten() != 0
    before = torch.arange(kernel**3).view(kernel, kernel, kernel)
    expected_mask = (before < kernel**3 // 2) & (torch.arange(kernel) >= half - steps)[:, None, None]
    assert torch.equal(filled, expected_mask.flatten())
    expected = F.conv3d(x.movedim(-1, 1), full, layer.bias, padding=half).movedim(1, -1)
    torch.testing.assert_close(layer(x), expected)


def test_flat_weight_and_covered_are_the_same_convolution() -> None:
    layer, x = convolution(5), torch.randn(2, *SHAPE, 2)
    around = F.pad(x.flatten(1, 3), (0, 0, 0, 1))[:, layer.covered(SHAPE)].flatten(2)
    expected = layer(x).flatten(1, 3)
    torch.testing.assert_close(F.linear(around, layer.flat_weight(), layer.bias), expected)
    part = slice(1, 2)  # the row's own locations
    left = F.pad(x.flatten(1, 3), (0, 0, 0, 1))[:, layer.covered(SHAPE, part)].flatten(2)
    alone = F.conv3d(F.pad(x.movedim(-1, 1), (2, -1, 0, 0, 0, 0)), layer.weights[1]).movedim(1, -1).flatten(1, 3)
    torch.testing.assert_close(F.linear(left, layer.flat_weight(part)), alone)


def test_covered_by_listing_locations() -> None:
    layer = convolution(3)
    index = {location: i for i, location in enumerate(itertools.product(*map(range, SHAPE)))}
    taps = [(t, h, w) for box in layer.boxes for t in box[0] for h in box[1] for w in box[2]]
    expected = [[index.get((t + a, h + b, w + c), len(index)) for a, b, c in taps] for t, h, w in index]
    assert layer.covered(SHAPE).tolist() == expected


def test_one_step_has_nothing_before_it() -> None:
    assert boxes_before((5, 5, 5), steps=1) == []
    assert boxes_before((7, 3, 1), steps=2) == [(range(-1, 0), range(-1, 2), range(1))]
