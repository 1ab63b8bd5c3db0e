"""A vector for each position of a GPT's order: of tables that add up, or one table of its own (CCVS table 2).

L positions of the order, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class DecomposedPositions(nn.Module):
    """The sum of vectors for time, place (stream, h, w) and codebook (stream, q). `first_frame` [L] is the time."""

    def __init__(self, order: np.ndarray, first_frame: np.ndarray, width: int) -> None:
        super().__init__()
        stream, _, h, w, q = order.T
        self.tables = nn.ModuleDict()
        for name, keys in {"time": [first_frame], "place": [stream, h, w], "book": [stream, q]}.items():
            rows, row = np.unique(np.stack(keys), axis=1, return_inverse=True)
            self.register_buffer(f"{name}_row", torch.from_numpy(row.reshape(-1)), persistent=False)  # int64 [L]
            self.tables[name] = nn.Embedding(rows.shape[1], width)

    def forward(self) -> Tensor:
        """[L, D]"""
        time, place, book = (table(self.get_buffer(f"{name}_row")) for name, table in self.tables.items())
        return time + place + book


class JointPositions(nn.Module):
    """A vector of its own for each of the `length` positions."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(length, width)

    def forward(self) -> Tensor:
        """[L, D]"""
        return self.table.weight
