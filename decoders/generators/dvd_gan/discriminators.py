"""The two discriminators of DVD-GAN (section 3.1, appendix B.2): of single frames, and of small clips.

BigGAN's residual blocks, and scores by projection on the class (Miyato and Koyama 2018,
https://arxiv.org/abs/1802.05637). Nothing is normalised but the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

IN_3D = 2  # first blocks of the temporal discriminator
CHANNELS = 3


class DiscriminatorBlock(nn.Module):
    """[N, C, h, w] -> [N, C', h / 2, w / 2], or the size that it was for the last block."""

    dimensions = 2

    def __init__(self, inputs: int, outputs: int, *, first: bool = False, last: bool = False) -> None:
        super().__init__()
        convolution: type[nn.Conv2d | nn.Conv3d] = nn.Conv2d if self.dimensions == 2 else nn.Conv3d
        self.is_first, self.is_last = first, last
        self.first = convolution(inputs, outputs, 3, padding=1)
        self.second = convolution(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if last and inputs == outputs else convolution(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.is_first else x.relu()  # a ReLU of pixels would discard half of the picture
        inner = self.second(self.first(inner).relu())
        if self.is_last:
            return inner + self.skip(x)
        return self.pool(inner) + self.skip(self.pool(x))  # a 1 x 1 convolution is the same before and after

    def pool(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, 2)


class TemporalBlock(DiscriminatorBlock):
    """[B, C, T, h, w] -> [B, C', T', h / 2, w / 2]; T' is T / 2, rounded down, while two steps are left, or T without
    `pool_time`.
    """

    dimensions = 3

    def __init__(self, inputs: int, outputs: int, pool_time: bool, *, first: bool = False, last: bool = False) -> None:
        super().__init__(inputs, outputs, first=first, last=last)
        self.pool_time = pool_time

    def pool(self, x: Tensor) -> Tensor:
        return functional.avg_pool3d(x, (2 if self.pool_time and x.shape[2] > 1 else 1, 2, 2))


class ProjectionScore(nn.Module):
    """Features [B, n, C, h, w] and class weights [B, K] -> scores [B, n]: features are summed over places."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.score = nn.Linear(channels, 1)
        self.class_embedding = nn.Linear(classes, channels, bias=False)  # of mixtures of classes too

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        summed = features.relu().sum((3, 4))
        projected = (summed * self.class_embedding(classes)[:, None]).sum(2)
        return self.score(summed)[:, :, 0] + projected


def frame_blocks(widths: Sequence[int]) -> nn.ModuleList:
    """Blocks over single frames [N, 3, H, W] with these output channels; all but the last halve height and width."""
    sizes = enumerate(pairwise([CHANNELS, *widths]))
    last = len(widths) - 1
    return nn.ModuleList(DiscriminatorBlock(a, b, first=i == 0, last=i == last) for i, (a, b) in sizes)


class SpatialDiscriminator(nn.Module):
    """D_S: frames [B, k, 3, H, W] and class weights [B, K] -> a score of each frame [B, k]."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.blocks = frame_blocks(widths)
        self.head = ProjectionScore(widths[-1], classes)

    def forward(self, frames: Tensor, classes: Tensor) -> Tensor:
        x = frames.flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(x.unflatten(0, frames.shape[:2]), classes)
        return scores


class TemporalDiscriminator(nn.Module):
    """D_T: clips [B, 3, T, h, w] and class weights [B, K] -> a score of each time step that is left [B, T']. The first
    two blocks are 3D; the others, as the scores, treat each step alone.
    """

    def __init__(self, widths: Sequence[int], classes: int, pool_time: bool) -> None:
        super().__init__()
        last = len(widths) - 1
        blocks: list[DiscriminatorBlock] = []
        for i, (inputs, outputs) in enumerate(pairwise([CHANNELS, *widths])):
            where = {"first": i == 0, "last": i == last}
            in_3d = i < IN_3D
            blocks.append(
                TemporalBlock(inputs, outputs, pool_time, **where)
                if in_3d
                else DiscriminatorBlock(inputs, outputs, **where)
            )
        self.blocks_3d, self.blocks_2d = nn.ModuleList(blocks[:IN_3D]), nn.ModuleList(blocks[IN_3D:])
        self.head = ProjectionScore(widths[-1], classes)

    def forward(self, clips: Tensor, classes: Tensor) -> Tensor:
        x = clips
        for block in self.blocks_3d:
            x = block(x)
        steps = x.transpose(1, 2)
        x = steps.flatten(0, 1)
        for block in self.blocks_2d:
            x = block(x)
        scores: Tensor = self.head(x.unflatten(0, steps.shape[:2]), classes)
        return scores


def class_weights_or_one(classes: Tensor | None, like: Tensor) -> Tensor:
    """Class weights [B, K]; without classes all clips of `like` [B, ...] are of one class, [B, 1]."""
    return torch.ones(len(like), 1, dtype=like.dtype, device=like.device) if classes is None else classes
