"""Convolutions that see only chosen places around each place, without computing what a mask would throw away.

What a filter sees is cut into boxes of offsets, each a plain convolution over a shifted volume. Knows volumes of
vectors, and of codes nothing.

N volumes, t h w their steps, rows and columns, P = t h w places in raster order, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Box = tuple[range, range, range]  # offsets in steps, rows and columns
Shape = tuple[int, int, int]
ALL = slice(None)


def boxes_before(kernel: Shape, steps: int) -> list[Box]:
    """What a `kernel` (odd sides) centred on a place covers of earlier steps, in a volume of `steps`: all is seen."""
    past, rows, columns = (size // 2 for size in kernel)
    before = range(-min(past, steps - 1), 0)  # no volume reaches further back
    return [(before, range(-rows, rows + 1), range(-columns, columns + 1))] if before else []


class BoxConvolution(nn.Module):
    """[N, t, h, w, inputs] -> [N, t, h, w, outputs], zero outside of the volume; the sum over its boxes."""

    def __init__(self, inputs: int, outputs: int, boxes: Sequence[Box], bias: bool = True) -> None:
        super().__init__()
        self.boxes = list(boxes)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(outputs, inputs, *(len(offsets) for offsets in box))) for box in boxes
        )
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def reset_parameters(self) -> None:
        fan_in = sum(weight[0].numel() for weight in self.weights)
        for weight in self.weights:
            nn.init.normal_(weight, std=fan_in**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        volume = x.movedim(-1, 1)
        biases = [self.bias] + [None] * (len(self.boxes) - 1)  # added once
        parts = [
            F.conv3d(F.pad(volume, _padding(box)), weight, bias)
            for box, weight, bias in zip(self.boxes, self.weights, biases, strict=True)
        ]
        return sum(parts[1:], parts[0]).movedim(1, -1)

    def flat_weight(self, boxes: slice = ALL) -> Tensor:
        """[outputs, taps * inputs] of some of the boxes, the taps in the order of `places`."""
        weights = [weight.flatten(2).transpose(1, 2).flatten(1) for weight in list(self.weights)[boxes]]
        return torch.cat(weights, 1) if weights else self.weights[0].new_zeros(len(self.weights[0]), 0)

    def places(self, shape: Shape, boxes: slice = ALL) -> Tensor:
        """int64 [P, taps]: the place that each tap sees from each place, P where that is outside of the volume."""
        taps = [offset for box in self.boxes[boxes] for offset in itertools.product(*box)]
        seen = np.indices(shape).reshape(3, -1).T[:, None] + np.array(taps, dtype=int).reshape(-1, 3)
        outside = ((seen < 0) | (seen >= np.array(shape))).any(-1)
        index = np.ravel_multi_index(tuple(np.moveaxis(seen * ~outside[..., None], -1, 0)), shape)
        return torch.from_numpy(np.where(outside, np.prod(shape), index))


def _padding(box: Box) -> list[int]:
    """As `F.pad` wants it, last axis first; negative where the volume is cut."""
    return [side for offsets in reversed(box) for side in (-offsets[0], offsets[-1])]
