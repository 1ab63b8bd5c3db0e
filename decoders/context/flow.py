"""Flow from a frame being decoded to frames already known, refined from coarse to fine (CCVS section 3.2, appendix A).

After LiteFlowNet (Hui et al. 2018, https://arxiv.org/abs/1805.07036), on the features of encoder and decoder:
at each resolution a matching step by local correlation, then a sub-pixel step that looks at both pictures of features.
Beside the flow goes a fusion mask: logits, whose sigmoid tends to 1 where the known frame does not show what is needed.

N frames, k known frames for each (contexts), C channels, h w a level's grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.decoders.context.correlation import local_correlation
from tokenreel.decoders.context.warp import warp
from tokenreel.decoders.layers.equalized import EqualizedConv2d, activate
from tokenreel.errors import ConfigError

RADIUS = 3  # of the correlation, in places of the level: 7 x 7
COARSE_LEVELS = 3  # levels on which every place is matched; on finer ones every other
SMALLEST_SIZE = 1e-3  # added to the variance of features at a place: where they hardly differ, they are left small
MIN_MATCHED = 16  # channels that are left of a quarter of the features, for the correlation


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of the flow module; the defaults are those of CCVS's code."""

    widths: tuple[int, ...] = (128, 64, 32)  # channels of the convolutions before the heads
    share: float = 0.75  # of a level's channels that are matched, warped and mixed; the others stay the decoder's own
    unrefined: int = 0  # finest levels that only double the flow found before; refining the finest is most of the work

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"widths (={self.widths}) must be one or more positive numbers of channels")
        if self.unrefined < 0:
            raise ConfigError(f"unrefined (={self.unrefined}) must be 0 or a number of levels")
        if not 0 < self.share <= 1:
            raise ConfigError(f"share (={self.share}) must be above 0 and at most 1")


@dataclass(frozen=True)
class Flow:
    """What one level found: where to look in each context, and where not to."""

    displacement: Tensor  # float [N, k, 2, h, w]: x and y in pixels of this level's grid
    logits: Tensor  # float [N, k, 1, h, w]: sigmoid -> 1 where the context is occluded

    def of_last(self, frames: int) -> Flow:
        """The last rows of the N."""
        return Flow(self.displacement[-frames:], self.logits[-frames:])


class DoubledFlow(nn.Module):
    """A level that finds nothing of its own."""

    def forward(self, decoded: Tensor, contexts: Tensor, coarser: Flow | None) -> Flow:
        assert coarser is not None  # the coarsest level is always refined
        flow, logits = (part.unflatten(0, contexts.shape[:2]) for part in _doubled(coarser))
        return Flow(flow, logits)


class FlowLevel(nn.Module):
    """The flow at level `level` (0: the coarsest), out of the one before and `channels` features of both pictures."""

    def __init__(self, channels: int, level: int, config: FlowConfig) -> None:
        super().__init__()
        matched = max(MIN_MATCHED, channels // 4)
        self.stride = 1 if level < COARSE_LEVELS else 2
        self.project = EqualizedConv2d(channels, matched, 1) if channels > MIN_MATCHED else nn.Identity()
        kernel = 2 ** (level // 2 + 1) + 1  # 3, 3, 5, 5, 9, 9: the finer the level, the more places a head sees
        self.matching = _Refinement((2 * RADIUS + 1) ** 2, config.widths, kernel)
        self.subpixel = _Refinement(2 * channels + 3, config.widths, kernel)

    def forward(self, decoded: Tensor, contexts: Tensor, coarser: Flow | None) -> Flow:
        """`decoded` [N, C, h, w], `contexts` [N, k, C, h, w] and the flow of half the resolution."""
        number, count = contexts.shape[:2]
        targets = _channels_last(decoded[:, None].expand_as(contexts).flatten(0, 1))
        sources = _channels_last(contexts.flatten(0, 1))
        flow, logits = self._start(sources) if coarser is None else _doubled(coarser)
        flow, logits = self._match(targets, sources, flow, logits)
        both = [targets, warp(sources, flow), flow.to(targets.dtype), logits.to(targets.dtype)]
        change = self.subpixel(_channels_last(torch.cat(both, 1)))
        flow, logits = flow + change[:, :2], logits + change[:, 2:]
        return Flow(flow.unflatten(0, (number, count)), logits.unflatten(0, (number, count)))

    def _start(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        nothing = sources.new_zeros(len(sources), 3, *sources.shape[2:], dtype=torch.float32)
        return nothing[:, :2], nothing[:, 2:]

    def _match(self, targets: Tensor, sources: Tensor, flow: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        first, second = _of_unit_size(self.project(targets)), _of_unit_size(self.project(warp(sources, flow)))
        likeness = local_correlation(first, second, radius=RADIUS, stride=self.stride)
        change = self.matching(activate(likeness))
        if self.stride > 1:  # CCVS's code refines 49 channels of likeness at full size instead: 4 times the work
            change = functional.interpolate(change, targets.shape[2:], mode="bilinear", align_corners=False)
        return flow + change[:, :2], logits + change[:, 2:]


class _Refinement(nn.Module):
    """Convolutions to what a flow (2 channels) and its logits (1) change by. They begin at 0, so that an untrained
    module finds nothing moved, which of most of a picture is true.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...], kernel: int) -> None:
        super().__init__()
        sizes = (inputs, *widths)
        self.convs = nn.ModuleList(EqualizedConv2d(a, b, 3) for a, b in zip(sizes, widths, strict=False))
        self.head = EqualizedConv2d(widths[-1], 3, kernel)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = activate(conv(x))
        change: Tensor = self.head(x)
        return change.float()  # flows and masks stay in float32: in bf16 a flow of 64 pixels has steps of half a pixel


def _doubled(coarser: Flow) -> tuple[Tensor, Tensor]:
    """The flow and logits [N k, ...] of a level on the grid of the next one, twice as fine: twice as many pixels far.

    Bilinear; CCVS's code learns this as a transposed convolution for each channel.
    """
    flow, logits = coarser.displacement.flatten(0, 1), coarser.logits.flatten(0, 1)
    double = functional.interpolate(torch.cat([2 * flow, logits], 1), scale_factor=2, mode="bilinear")
    return double[:, :2], double[:, 2:]


def _of_unit_size(features: Tensor) -> Tensor:
    """Mean 0 and variance 1 at each place, so that what is bright is not alike to everything (Jonschkowski et al. 2020,
    https://arxiv.org/abs/2006.04902). CCVS's code compares features as they are: on Tabletop the endpoint
    error is then 0.81 of no flow's after 200 steps, with this 0.76.
    """
    centred = features - features.mean(1, keepdim=True)
    return centred * (centred.square().mean(1, keepdim=True) + SMALLEST_SIZE).rsqrt()


def _channels_last(x: Tensor) -> Tensor:
    """In this layout a CPU's convolutions are 1.5 to 2 times as fast, in fp32 and in bf16."""
    return x.contiguous(memory_format=torch.channels_last)
