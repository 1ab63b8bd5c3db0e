"""Mixing what is decoded with what known frames show of it (CCVS equation 1, and appendix D for several of them)."""

from __future__ import annotations

from torch import Tensor

from tokenreel.decoders.context.flow import Flow
from tokenreel.decoders.context.warp import warp

LEAST_CONFIDENCE = 1e-6  # of a context in which everything is occluded: the weights still sum to 1


def fuse(decoded: Tensor, contexts: Tensor, flow: Flow) -> Tensor:
    """sigmoid(m) decoded + (1 - sigmoid(m)) warped, for decoded [N, C, h, w] and contexts [N, k, C, h, w].

    sigmoid(m) tends to 1 where the contexts are occluded, as equation 1 needs; equation 7 as printed says the opposite.
    Several contexts are averaged, each by how visible it says to be; so are their logits, before the sigmoid.
    """
    visible = 1 - flow.logits.sigmoid() + LEAST_CONFIDENCE
    weight = visible / visible.sum(1, keepdim=True)  # [N, k, 1, h, w]
    warped = warp(contexts.flatten(0, 1), flow.displacement.flatten(0, 1)).unflatten(0, contexts.shape[:2])
    shown = (weight.to(warped.dtype) * warped).sum(1)
    mask = (weight * flow.logits).sum(1).sigmoid().to(decoded.dtype)
    return mask * decoded + (1 - mask) * shown
