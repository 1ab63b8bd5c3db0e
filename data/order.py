"""The order in which training reads: a stateless permutation of the rows for each epoch, under one sample counter.

Sample g of the endless stream is row p(g mod n) of epoch g div n, where p is a Feistel permutation keyed by (seed,
epoch). Nothing depends on the number of processes, on the batch or on what was read before, so one integer resumes a
run in the middle of an epoch on any number of processes. A Feistel network, not a linear congruence: orders of the
latter were found to resemble unshuffled data (Levanter issue 932).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tokenreel.errors import CheckpointError

ALGORITHM = "feistel8-v1"  # frozen by a golden test: another order under this name would silently change resumed runs
ROUNDS = 8
GOLDEN_RATIO = 0x9E3779B97F4A7C15  # splitmix64's increment
ROUND_INCREMENT = 0xD1B54A32D192ED03  # a second odd constant, so that rounds and keys do not walk the same sequence
WORD = (1 << 64) - 1


class SampleOrder:
    """The endless stream of rows: every epoch holds each of `rows` (int64 [n]) once, in its own order."""

    def __init__(self, rows: np.ndarray, seed: int) -> None:
        if len(rows) == 0:
            raise ValueError("rows (=[]) must have at least one row")
        self._rows = np.ascontiguousarray(rows, dtype=np.int64)
        self._seed = seed

    def rows(self, first_sample: int, count: int) -> np.ndarray:
        """Rows [count] of samples first_sample, first_sample + 1, ... of the global stream.

        A step of B samples that begins at sample c is `rows(c, B)`; process r of W takes
        `rows(c + r * B // W, B // W)`.
        """
        samples = np.arange(first_sample, first_sample + count, dtype=np.int64)
        epochs, positions = np.divmod(samples, len(self._rows))
        picked = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            in_epoch = epochs == epoch
            picked[in_epoch] = permute(positions[in_epoch], len(self._rows), _key(self._seed, epoch))
        return self._rows[picked]

    def state(self, consumed: int) -> dict[str, Any]:
        """The state for a checkpoint; `consumed` counts the samples used in training, not those prefetched."""
        return {
            "algorithm": ALGORITHM,
            "seed": self._seed,
            "rows": len(self._rows),
            "rows_sha256": hashlib.sha256(self._rows.astype("<i8").tobytes()).hexdigest(),
            "consumed": consumed,
        }

    def resume(self, state: Mapping[str, Any]) -> int:
        """The number of samples consumed. Raises CheckpointError for a state of another data set, seed or algorithm."""
        consumed = state.get("consumed")
        if not isinstance(consumed, int):
            raise CheckpointError(
                "the checkpoint does not state which samples it has consumed: resume from another one"
            )
        for key, value in self.state(consumed).items():
            if state.get(key) != value:
                raise CheckpointError(
                    f"order.{key} of the checkpoint (={state.get(key)!r}) is not that of this run (={value!r}): "
                    "resume with the data and the seed with which the run was started"
                )
        return int(consumed)


def permute(positions: np.ndarray, n: int, key: int) -> np.ndarray:
    """int64 [m]: the images of `positions` (integers [m] in 0..n-1) under a permutation of 0..n-1.

    Eight Feistel rounds over the smallest even power of two from n on; values from n on are permuted again.
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    round_keys = [_mix(np.uint64((key + r * ROUND_INCREMENT) & WORD)) for r in range(1, ROUNDS + 1)]
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        values[outside] = (left << half) | right
        outside = values >= n
    return values.astype(np.int64)


def _key(seed: int, epoch: int) -> int:
    mixed = int(_mix(np.uint64(seed & WORD)))
    return (mixed + epoch * GOLDEN_RATIO) & WORD


def _mix(value: Any) -> Any:
    """splitmix64's finaliser, elementwise on uint64."""
    with np.errstate(over="ignore"):  # multiplication modulo 2^64 is intended
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def evenly_spaced(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` evenly spaced elements of `rows` [n], or all if there are fewer."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]
