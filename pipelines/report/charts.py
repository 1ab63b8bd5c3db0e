"""Charts (loss curves, code usage, scores) as SVG text or PNG. Drawn off screen, the same look everywhere."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokenreel.metrics.codes import CodebookUsage

INK = "#1f2933"
FEW = 8  # points that would be hard to see as a line alone, and lines that a legend has room for
PNG_DPI = 160  # pixels an inch
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
    """How often each code is used, most frequent first (LVT figure 5); `counts` [q, K], a line for each codebook.

    Left of a codebook's dashed line are the codes that hold 80 % of its mass.
    """
    return _svg(_frequencies(counts, across))


def sorted_frequencies_png(counts: np.ndarray, across: str) -> bytes:
    """The same chart as a PNG file."""
    encoded = io.BytesIO()
    _frequencies(counts, across).savefig(encoded, format="png", dpi=PNG_DPI)
    return encoded.getvalue()


def _frequencies(counts: np.ndarray, across: str) -> Figure:
    figure, axes = _canvas(across, "share of all codes")
    for book, (row, colour) in enumerate(zip(counts, COLOURS * len(counts), strict=False)):
        shares = np.sort(row)[::-1] / row.sum()
        use = CodebookUsage.from_counts(row)
        label = f"codebook {book}: {use.holding_80_percent} of {use.codebook_size} codes hold 80 %"
        axes.fill_between(np.arange(len(shares)), shares, color=colour, alpha=0.35, linewidth=0)
        axes.plot(shares, color=colour, linewidth=1.2, label=label)
        axes.axvline(use.holding_80_percent - 0.5, color=colour, linewidth=1, linestyle="--")
    axes.set_ylim(bottom=0)
    if len(counts) <= FEW:  # more would hide the chart
        axes.legend(framealpha=1, edgecolor="none", fontsize=8)
    return figure


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
