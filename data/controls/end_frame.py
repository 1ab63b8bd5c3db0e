"""The end frame as a control (CCVS section 4.2, point-to-point): a clip's own codes of one step, and which step it is.

Derived from the codes of the level wherever they are read, so that no cache holds them. Knows codes only, no prior.

N clips, t h w token grid, q codebooks at a position.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tokenreel.data.spec import END, END_STEP, TokenSpec
from tokenreel.errors import DataError


def end_tokens(spec: TokenSpec, tokens: Mapping[str, np.ndarray], steps: np.ndarray) -> dict[str, np.ndarray]:
    """`end` [N, 1, h, w, q] and `end_step` int64 [N, 1, 1, 1, 1]: the codes of step `steps` [N] of each clip.

    `spec` is one with an end frame, `tokens` hold its level [N, t, h, w, q]. Raises DataError for a step beyond it.
    """
    (level,) = spec.levels
    codes = tokens[level.name]
    if len(steps) and not 0 <= steps.min() <= steps.max() < codes.shape[1]:
        raise DataError(f"end steps {steps.min()} to {steps.max()} are not among the {codes.shape[1]} of the clips")
    return {END: codes[np.arange(len(codes)), steps][:, None], END_STEP: steps.astype(np.int64).reshape(-1, 1, 1, 1, 1)}
