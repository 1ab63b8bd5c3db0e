"""Some rows of many, evenly spread: what stands for a whole data set where all of it would take too long."""

from __future__ import annotations

import numpy as np


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` of `rows`, evenly over them; all if there are fewer."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]
