"""The decoder of CCVS (Le Moing et al. 2021, section 3.2): latents of a frame -> pixels, with other frames as context.

At each resolution the features decoded so far are matched with the encoder's features of the context frames, and fused
with those features warped by the flow. Without context frames it decodes from latents alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from tokenreel.decoders.context.flow import Flow, FlowConfig, FlowLevel, UpsampledFlow
from tokenreel.decoders.context.warp import warp
from tokenreel.decoders.layers.equalized import EqualizedConv2d, UpsampleBlock, activate

MIN_CONFIDENCE = 1e-6  # of a fully occluded context, so that the weights of contexts still sum to 1


def fuse(decoded: Tensor, contexts: Tensor, flow: Flow) -> Tensor:
    """sigmoid(m) decoded + (1 - sigmoid(m)) warped, for decoded [N, C, h, w] and contexts [N, k, C, h, w].

    sigmoid(m) tends to 1 where the contexts are occluded, as equation 1 needs; equation 7 as printed says the opposite.
    Several contexts are averaged, weighted by their visibility 1 - sigmoid(m), and so are their logits m.
    """
    visible = 1 - flow.logits.sigmoid() + MIN_CONFIDENCE
    weight = visible / visible.sum(1, keepdim=True)  # [N, k, 1, h, w]
    warped = warp(contexts.flatten(0, 1), flow.displacement.flatten(0, 1)).unflatten(0, contexts.shape[:2])
    context = (weight.to(warped.dtype) * warped).sum(1)
    mask = (weight * flow.logits).sum(1).sigmoid().to(decoded.dtype)
    return mask * decoded + (1 - mask) * context


@dataclass(frozen=True)
class Decoded:
    """Frames as decoded, with the flows that were used."""

    pixels: Tensor  # [N, 3, H, W], about [-1, 1]; not clamped
    flows: list[Flow]  # by level, coarse to fine; empty without context


class ContextDecoder(nn.Module):
    """`widths`: channels by level, coarse to fine; each level has twice the height and width of the one before."""

    def __init__(self, latent: int, widths: Sequence[int], flow: FlowConfig | None) -> None:
        super().__init__()
        self.project_in = EqualizedConv2d(latent, widths[0], 1)
        self.blocks = nn.ModuleList(UpsampleBlock(a, b) for a, b in pairwise(widths))
        self.project_out = EqualizedConv2d(widths[-1], 3, 1)
        self.shared = [_shared_channels(width, flow) for width in widths]
        self.flow: nn.ModuleList | None = None
        if flow is not None:
            refined = max(1, len(widths) - flow.unrefined)
            self.flow = nn.ModuleList(FlowLevel(shared, i, flow) for i, shared in enumerate(self.shared[:refined]))
            self.flow.extend(UpsampledFlow() for _ in widths[refined:])

    def forward(self, latents: Tensor, contexts: Sequence[Tensor] | None = None) -> Decoded:
        """Latents [N, D, h, w]; features of the context frames by level, coarse to fine, [N, k, C, h, w] each."""
        flows: list[Flow] = []
        latents = latents.contiguous(memory_format=torch.channels_last)
        x = self._with_context(activate(self.project_in(latents)), contexts, flows)
        for block in self.blocks:
            x = self._with_context(block(x), contexts, flows)
        return Decoded(self.project_out(x), flows)

    def _with_context(self, x: Tensor, contexts: Sequence[Tensor] | None, flows: list[Flow]) -> Tensor:
        """Appends the flow of the next level to `flows`, and fuses that level's contexts into its first channels."""
        if contexts is None or self.flow is None:
            return x
        level, shared = len(flows), self.shared[len(flows)]
        decoded, context = x[:, :shared], contexts[level]
        flows.append(self.flow[level](decoded, context, flows[-1] if flows else None))
        return torch.cat([fuse(decoded, context, flows[-1]), x[:, shared:]], 1)


def _shared_channels(width: int, flow: FlowConfig | None) -> int:
    """Number of channels of a level, its first ones, that contexts are fused into."""
    return 0 if flow is None else max(1, int(flow.channel_fraction * width))
