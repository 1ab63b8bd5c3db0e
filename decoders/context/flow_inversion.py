"""Approximate inversion of displacement fields.

CCVS (https://arxiv.org/abs/2107.08037), section 3.2, needs it to supervise the flow from a frame to its augmented view;
its appendix C was not available when this was written.
"""

from __future__ import annotations

from torch import Tensor

from tokenreel.decoders.context.warp import warp

ITERATIONS = 8  # for slopes as in CCVS, only the error of sampling the field between pixels remains


def invert_flow(flow: Tensor) -> Tensor:
    """Displacements d [N, 2, h, w] in pixels -> g [N, 2, h, w], where d moves the point q + g(q) to q.

    Fixed-point iteration of g(q) = -d(q + g(q)) from g = -d; beyond the frame, d continues with its border values. It
    converges where the slopes of d are below one, that is where d does not fold, and faster for a smoother d.

    CCVS's code scatters -d to floor(p + d) and fills holes by repeated 3x3 blurs; targets beyond the frame all fall on
    pixel 0. On random fields of `AugmentedViewConfig` that is less accurate and slower (docs/log.md).
    """
    inverse = -flow
    for _ in range(ITERATIONS):
        inverse = -warp(flow, inverse)
    return inverse
