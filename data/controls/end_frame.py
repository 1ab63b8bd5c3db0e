"""The end frame as a control (CCVS section 4.2, point-to-point): a clip's own tokens of one step, and that step.

They are derived from the tokens of the level when these are read; no cache contains them.

N clips, t h w token grid, q codebooks at a position.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tokenreel.data.spec import END, END_STEP, TokenSpec
from tokenreel.errors import DataError


def end_tokens(spec: TokenSpec, tokens: Mapping[str, np.ndarray], steps: np.ndarray) -> dict[str, np.ndarray]:
    """`end` [N, 1, h, w, q] and `end_step` int64 [N, 1, 1, 1, 1]: the tokens of code step `steps` [N] of each clip.

    `spec` has an end frame, `tokens` its level [N, t, h, w, q]. Raises DataError for a step outside of the clip.
    """
    (level,) = spec.levels
    indices = tokens[level.name]
    if len(steps) and not 0 <= steps.min() <= steps.max() < indices.shape[1]:
        raise DataError(
            f"end steps (={steps.min()} to {steps.max()}) must be 0 to {indices.shape[1] - 1}, steps of the clips"
        )
    end = indices[np.arange(len(indices)), steps][:, None]
    return {END: end, END_STEP: steps.astype(np.int64).reshape(-1, 1, 1, 1, 1)}
