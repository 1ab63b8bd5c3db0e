"""Position embeddings of a GPT: sums of several tables, or one table (CCVS table 2).

L positions of the order, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class DecomposedPositions(nn.Module):
    """The sum of embeddings of time, location (stream, h, w) and codebook (stream, q), [L, D].

    `order` [L, 5] is as in `Prior.order`; the time of a token is its `first_frame` [L].
    """

    def __init__(self, order: np.ndarray, first_frame: np.ndarray, width: int) -> None:
        super().__init__()
        stream, _, h, w, q = order.T
        self.tables = nn.ModuleDict()
        for name, keys in {"time": [first_frame], "location": [stream, h, w], "codebook": [stream, q]}.items():
            rows, row = np.unique(np.stack(keys), axis=1, return_inverse=True)
            self.register_buffer(f"{name}_row", torch.from_numpy(row.reshape(-1)), persistent=False)  # int64 [L]
            self.tables[name] = nn.Embedding(rows.shape[1], width)

    def forward(self) -> Tensor:
        """The position embeddings, [L, D]."""
        time, location, codebook = (table(self.get_buffer(f"{name}_row")) for name, table in self.tables.items())
        return time + location + codebook


class JointPositions(nn.Module):
    """One embedding for each of the `length` positions, [L, D]."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(length, width)

    def forward(self) -> Tensor:
        """The position embeddings, [L, D]."""
        return self.table.weight
