"""Flow from a frame being decoded to its context frames, refined from coarse to fine (CCVS section 3.2, appendix A).

After LiteFlowNet (Hui et al. 2018, https://arxiv.org/abs/1805.07036), on the features of encoder and decoder: at each
resolution a matching step by local correlation, then a sub-pixel step on both feature maps. Besides the flow it
estimates a fusion mask: logits whose sigmoid tends to 1 where the context does not show what is needed.

Positions are the centres of a level's pixels, 0, 1, ...; that of pixel p is at 2 p + 1/2 on the grid of the next finer
level, where displacements are twice as long.

N frames, k context frames for each, C channels, h w a level's grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.decoders.context.correlation import interpolate_positions, local_correlation
from tokenreel.decoders.context.warp import warp
from tokenreel.decoders.layers.equalized import EqualizedConv2d, activate
from tokenreel.errors import ConfigError

RADIUS = 3  # of the correlation, in positions of the level: 7 x 7
COARSE_LEVELS = 3  # levels on which every position is matched; on finer ones every other
VARIANCE_EPSILON = 1e-3  # added to the variance of features; where they hardly differ, normalized ones stay small
MIN_MATCHED = 16  # least number of channels that are correlated, usually a quarter of the features


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of the flow module; the defaults are those of CCVS's code."""

    widths: tuple[int, ...] = (128, 64, 32)  # channels of the convolutions before the heads
    channel_fraction: float = 0.75  # of a level's channels that are matched, warped and fused
    unrefined: int = 0  # number of finest levels that only upsample the flow; refining them is most of the work

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"widths (={self.widths}) must be one or more positive numbers of channels")
        if self.unrefined < 0:
            raise ConfigError(f"unrefined (={self.unrefined}) must be 0 or a number of levels")
        if not 0 < self.channel_fraction <= 1:
            raise ConfigError(f"channel_fraction (={self.channel_fraction}) must be above 0 and at most 1")


@dataclass(frozen=True)
class Flow:
    """Flow and fusion mask of one level, for each context frame."""

    displacement: Tensor  # float [N, k, 2, h, w]: x and y in pixels of this level's grid
    logits: Tensor  # float [N, k, 1, h, w]: sigmoid -> 1 where the context is occluded

    def last(self, count: int) -> Flow:
        """The flow of the last `count` of the N frames."""
        return Flow(self.displacement[-count:], self.logits[-count:])


class UpsampledFlow(nn.Module):
    """A level without weights: the flow of the coarser level, upsampled."""

    def forward(self, decoded: Tensor, contexts: Tensor, coarser: Flow | None) -> Flow:
        assert coarser is not None  # the coarsest level is always refined
        flow, logits = (part.unflatten(0, contexts.shape[:2]) for part in _upsample(coarser))
        return Flow(flow, logits)


class FlowLevel(nn.Module):
    """Refines the flow of the coarser level at `level` (0: the coarsest), on feature maps of `channels` channels."""

    def __init__(self, channels: int, level: int, config: FlowConfig) -> None:
        super().__init__()
        matched = max(MIN_MATCHED, channels // 4)
        self.stride = 1 if level < COARSE_LEVELS else 2
        self.project = EqualizedConv2d(channels, matched, 1) if channels > MIN_MATCHED else None
        kernel = 2 ** (level // 2 + 1) + 1  # 3, 3, 5, 5, 9, 9: larger on finer levels
        self.matching = _Refinement((2 * RADIUS + 1) ** 2, config.widths, kernel)
        self.subpixel = _Refinement(2 * channels + 3, config.widths, kernel)

    def forward(self, decoded: Tensor, contexts: Tensor, coarser: Flow | None) -> Flow:
        """`decoded` [N, C, h, w], `contexts` [N, k, C, h, w] and the flow at half the resolution."""
        number, count = contexts.shape[:2]
        targets = _channels_last(decoded[:, None].expand_as(contexts).flatten(0, 1))
        sources = _channels_last(contexts.flatten(0, 1))
        flow, logits = _zero_flow(sources) if coarser is None else _upsample(coarser)
        flow, logits = self._match(targets, sources, flow, logits)
        both = [targets, warp(sources, flow), flow.to(targets.dtype), logits.to(targets.dtype)]
        change = self.subpixel(_channels_last(torch.cat(both, 1)))
        flow, logits = flow + change[:, :2], logits + change[:, 2:]
        return Flow(flow.unflatten(0, (number, count)), logits.unflatten(0, (number, count)))

    def _match(self, targets: Tensor, sources: Tensor, flow: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (self._matched(features) for features in (targets, warp(sources, flow)))
        correlation = local_correlation(first, second, radius=RADIUS, stride=self.stride)
        change = self.matching(activate(correlation))
        if self.stride > 1:  # CCVS's code upsamples the 49 correlations instead and refines them: 4 times the work
            change = interpolate_positions(change, self.stride, *targets.shape[2:])
        return flow + change[:, :2], logits + change[:, 2:]

    def _matched(self, features: Tensor) -> Tensor:
        """The channels that are correlated."""
        return _normalize(features if self.project is None else activate(self.project(features)))


class _Refinement(nn.Module):
    """Convolutions that predict the change of a flow (2 channels) and of its logits (1). The last one is initialised
    with zeros: an untrained module predicts no motion, which is right for most of a frame.
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


def _zero_flow(sources: Tensor) -> tuple[Tensor, Tensor]:
    zeros = sources.new_zeros(len(sources), 3, *sources.shape[2:], dtype=torch.float32)
    return zeros[:, :2], zeros[:, 2:]


def _upsample(coarser: Flow) -> tuple[Tensor, Tensor]:
    """The flow and logits [N k, ...] of a level on the grid of the next finer one, displacements in its pixels.

    Bilinear; CCVS's code learns a transposed convolution for each channel.
    """
    flow, logits = coarser.displacement.flatten(0, 1), coarser.logits.flatten(0, 1)
    upsampled = functional.interpolate(torch.cat([2 * flow, logits], 1), scale_factor=2, mode="bilinear")
    return upsampled[:, :2], upsampled[:, 2:]


def _normalize(features: Tensor) -> Tensor:
    """Features with mean 0 and variance 1 at each position, so that large ones do not correlate with everything
    (Jonschkowski et al. 2020, https://arxiv.org/abs/2006.04902). CCVS's code correlates unnormalized features.
    """
    centered = features - features.mean(1, keepdim=True)
    return centered * (centered.square().mean(1, keepdim=True) + VARIANCE_EPSILON).rsqrt()


def _channels_last(x: Tensor) -> Tensor:
    """In this layout a CPU's convolutions are 1.5 to 2 times as fast, in fp32 and in bf16."""
    return x.contiguous(memory_format=torch.channels_last)
