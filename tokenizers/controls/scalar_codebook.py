"""The best codebook of K numbers for a set of numbers: k-means in one dimension, where it can be solved.

Up to SUMMARY distinct numbers the answer is the optimum (dynamic programming over the sorted numbers: clusters are
intervals; Wang and Song 2011, https://doi.org/10.32614/RJ-2011-015). Of more, their SUMMARY means of equally many are
solved so, and Lloyd's iterations over all numbers follow.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

SUMMARY = 1024
ITERATIONS = 100  # of Lloyd's, at most; each is exact, as the numbers are sorted


def scalar_codebook(values: np.ndarray, codebook_size: int) -> np.ndarray:
    """[n] -> float64 [K] ascending; where there are fewer distinct numbers than codes, the last one is repeated."""
    ordered = np.sort(values.astype(np.float64))
    distinct, counts = np.unique(ordered, return_counts=True)
    if len(distinct) <= SUMMARY:
        book = _solve(distinct, counts, min(codebook_size, len(distinct)))
    else:
        parts = np.array_split(ordered, SUMMARY)
        summary = np.array([part.mean() for part in parts])
        book = _lloyd(ordered, _solve(summary, np.array([len(part) for part in parts]), min(codebook_size, SUMMARY)))
    return np.pad(book, (0, codebook_size - len(book)), "edge")


def nearest_scalars(values: np.ndarray, book: np.ndarray) -> np.ndarray:
    """[...] and ascending [K] -> int64 [...]: the nearest; the lower one of two, the first of equal ones."""
    return np.searchsorted((book[1:] + book[:-1]) / 2, values, side="left").astype(np.int64)


def _solve(points: np.ndarray, weights: np.ndarray, codebook_size: int) -> np.ndarray:
    """The optimum for sorted weighted points, at least as many as codes."""
    n = len(points)
    centred = points - np.average(points, weights=weights)  # sums of squares cancel less
    weight, first, second = (np.concatenate([[0.0], np.cumsum(weights * centred**p)]) for p in range(3))
    i, j = np.arange(n)[:, None], np.arange(1, n + 1)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = second[j] - second[i] - (first[j] - first[i]) ** 2 / (weight[j] - weight[i])
    cost = np.where(j > i, inside, np.inf)  # [start, end) of one cluster
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


def _lloyd(ordered: np.ndarray, book: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(ITERATIONS):
        inner = np.searchsorted(ordered, (book[1:] + book[:-1]) / 2, side="right")
        edges = np.concatenate([[0], inner, [len(ordered)]])
        counts = np.diff(edges)
        moved = np.where(counts > 0, np.diff(sums[edges]) / np.maximum(counts, 1), book)
        if np.array_equal(moved, book):
            break
        book = moved
    return book
