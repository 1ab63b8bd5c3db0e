"""The optimal codebook of K scalars: k-means in one dimension, where it can be solved exactly.

Up to SUMMARY distinct values the result is the optimum (dynamic programming over the sorted values: clusters are
intervals; Wang and Song 2011, https://doi.org/10.32614/RJ-2011-015). More values are first summarised by the means of
SUMMARY equally large groups, and the solution is refined by Lloyd's algorithm over all values.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

SUMMARY = 1024
MAX_ITERATIONS = 100  # of Lloyd's algorithm, exact because the values are sorted


def scalar_codebook(values: np.ndarray, codebook_size: int) -> np.ndarray:
    """[n] -> float64 [K] ascending; with fewer than K distinct values, the last is repeated."""
    ordered = np.sort(values.astype(np.float64))
    distinct, counts = np.unique(ordered, return_counts=True)
    if len(distinct) <= SUMMARY:
        codebook = _solve(distinct, counts, min(codebook_size, len(distinct)))
    else:
        parts = np.array_split(ordered, SUMMARY)
        summary, sizes = np.array([part.mean() for part in parts]), np.array([len(part) for part in parts])
        codebook = _lloyd(ordered, _solve(summary, sizes, min(codebook_size, SUMMARY)))
    return np.pad(codebook, (0, codebook_size - len(codebook)), "edge")


def nearest_scalars(values: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Values [...] and ascending [K] -> int64 [...], the index of the nearest; of a tie the lower one."""
    return np.searchsorted((codebook[1:] + codebook[:-1]) / 2, values, side="left").astype(np.int64)


def _solve(points: np.ndarray, weights: np.ndarray, codebook_size: int) -> np.ndarray:
    """The optimal codebook [K] for sorted, weighted points, at least K of them."""
    n = len(points)
    centred = points - np.average(points, weights=weights)  # less cancellation in sums of squares
    weight, first, second = (np.concatenate([[0.0], np.cumsum(weights * centred**p)]) for p in range(3))
    i, j = np.arange(n)[:, None], np.arange(1, n + 1)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = second[j] - second[i] - (first[j] - first[i]) ** 2 / (weight[j] - weight[i])
    cost = np.where(j > i, deviation, np.inf)  # of a cluster [start, end)
    best, starts = cost[0], []
    for _ in range(codebook_size - 1):
        total = np.concatenate([[np.inf], best[:-1]])[:, None] + cost
        starts.append(total.argmin(axis=0))
        best = total[starts[-1], np.arange(n)]
    edges = [n]
    for start in reversed(starts):
        edges.append(int(start[edges[-1] - 1]))
    clusters = pairwise([0, *reversed(edges)])
    return np.array([np.average(points[a:b], weights=weights[a:b]) for a, b in clusters])


def _lloyd(ordered: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(MAX_ITERATIONS):
        inner = np.searchsorted(ordered, (codebook[1:] + codebook[:-1]) / 2, side="right")
        edges = np.concatenate([[0], inner, [len(ordered)]])
        counts = np.diff(edges)
        moved = np.where(counts > 0, np.diff(sums[edges]) / np.maximum(counts, 1), codebook)
        if np.array_equal(moved, codebook):
            break
        codebook = moved
    return codebook
