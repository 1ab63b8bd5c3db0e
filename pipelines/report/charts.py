"""Charts as SVG text: loss curves, code usage, scores. Drawn off screen, the same look everywhere."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1f2933"
FEW = 8  # points that would be hard to see as a line alone
COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626")


Line = tuple[Sequence[float], Sequence[float]]  # x, y


def curves(series: Mapping[str, Line], across: str, up: str, log: bool = False) -> str:
    """Lines by name, with the axes' titles `across` and `up`."""
    figure, axes = _canvas(across, up)
    for (name, (x, y)), colour in zip(series.items(), COLOURS * len(series), strict=False):
        axes.plot(x, y, label=name, color=colour, linewidth=1.6, marker="o" if len(x) < FEW else None, markersize=4)
    if log:
        axes.set_yscale("log")
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def sorted_frequencies(counts: np.ndarray, across: str) -> str:
    """How often each code is used, most frequent first (LVT figure 5); `counts` [q, K], a line for each codebook."""
    figure, axes = _canvas(across, "share of all codes")
    for row, colour in zip(counts, COLOURS * len(counts), strict=False):
        shares = np.sort(row)[::-1] / max(1, row.sum())
        axes.fill_between(np.arange(len(shares)), shares, color=colour, alpha=0.35, linewidth=0)
        axes.plot(shares, color=colour, linewidth=1.2)
    axes.set_ylim(bottom=0)
    return _svg(figure)


def _canvas(across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(across, color=INK, fontsize=9)
    axes.set_ylabel(up, color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue().split("?>", 1)[-1].split('.dtd">', 1)[-1]  # inside a page: no XML prologue, no doctype
