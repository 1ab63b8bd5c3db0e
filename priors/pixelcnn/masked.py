"""Masked convolutions that do not compute what the mask would discard.

The receptive field of a filter is split into boxes of offsets; each box is a plain convolution over a shifted volume.

N volumes, t h w their steps, rows and columns, P = t h w locations in raster order.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenreel.priors.layers.positions import raster_coordinates

Box = tuple[range, range, range]  # offsets in steps, rows and columns
Shape = tuple[int, int, int]
ALL = slice(None)


def boxes_before(kernel: Shape, steps: int) -> list[Box]:
    """The part of a `kernel` (odd sides), centred on a location, that covers earlier steps, in a volume of `steps`."""
    past, rows, columns = (size // 2 for size in kernel)
    before = range(-min(past, steps - 1), 0)  # a volume reaches no further back
    return [(before, range(-rows, rows + 1), range(-columns, columns + 1))] if before else []


class BoxConvolution(nn.Module):
    """The sum of one convolution per box, [N, t, h, w, inputs] -> [N, t, h, w, outputs]; zero padding."""

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
        """[outputs, taps * inputs] of the selected boxes, the taps in the order of `covered`."""
        weights = [weight.flatten(2).transpose(1, 2).flatten(1) for weight in list(self.weights)[boxes]]
        return torch.cat(weights, 1) if weights else self.weights[0].new_zeros(len(self.weights[0]), 0)

    def covered(self, shape: Shape, boxes: slice = ALL) -> Tensor:
        """int64 [P, taps]: the location that each tap covers from each location, P outside of the volume."""
        taps = [offset for box in self.boxes[boxes] for offset in itertools.product(*box)]
        covered = raster_coordinates(shape)[:, None] + np.array(taps, dtype=int).reshape(-1, 3)
        outside = ((covered < 0) | (covered >= np.array(shape))).any(-1)
        index = np.ravel_multi_index(tuple(np.moveaxis(covered * ~outside[..., None], -1, 0)), shape)
        return torch.from_numpy(np.where(outside, np.prod(shape), index))


def _padding(box: Box) -> list[int]:
    """The padding in the format of `F.pad`, last axis first; negative where the volume is cropped."""
    return [side for offsets in reversed(box) for side in (-offsets[0], offsets[-1])]
