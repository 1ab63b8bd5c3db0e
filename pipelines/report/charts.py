"""Charts of loss curves and codebook usage, as SVG text or PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokenreel.metrics.codes import CodebookUsage

TEXT_COLOUR = "#1f2933"
MAX_MARKED_POINTS = 8  # so few points are hard to see without markers
MAX_LEGEND_LINES = 8  # a legend of more would hide the chart
PNG_DPI = 160  # pixels per inch
COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626")

Line = tuple[Sequence[float], Sequence[float]]  # x, y


def curves(series: Mapping[str, Line], x_label: str, y_label: str, log: bool = False) -> str:
    """A chart of lines by name, as SVG text; `log`: logarithmic y axis."""
    figure, axes = _canvas(x_label, y_label)
    for (name, (x, y)), colour in zip(series.items(), COLOURS * len(series), strict=False):
        marker = "o" if len(x) < MAX_MARKED_POINTS else None
        axes.plot(x, y, label=name, color=colour, linewidth=1.6, marker=marker, markersize=4)
    if log:
        axes.set_yscale("log")
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def sorted_frequencies(counts: np.ndarray, x_label: str) -> str:
    """The frequency of each code, most frequent first (LVT figure 5), as SVG text; `counts` [q, K].

    Each codebook has a line, and a dashed one to the right of the codes that hold 80 % of its mass.
    """
    return _svg(_frequencies(counts, x_label))


def sorted_frequencies_png(counts: np.ndarray, x_label: str) -> bytes:
    """The same chart as a PNG file."""
    encoded = io.BytesIO()
    _frequencies(counts, x_label).savefig(encoded, format="png", dpi=PNG_DPI)
    return encoded.getvalue()


def _frequencies(counts: np.ndarray, x_label: str) -> Figure:
    figure, axes = _canvas(x_label, "fraction of all tokens")
    for codebook, (row, colour) in enumerate(zip(counts, COLOURS * len(counts), strict=False)):
        fractions = np.sort(row)[::-1] / row.sum()
        use = CodebookUsage.from_counts(row)
        label = f"codebook {codebook}: {use.holding_80_percent} of {use.codebook_size} codes hold 80 %"
        axes.fill_between(np.arange(len(fractions)), fractions, color=colour, alpha=0.35, linewidth=0)
        axes.plot(fractions, color=colour, linewidth=1.2, label=label)
        axes.axvline(use.holding_80_percent - 0.5, color=colour, linewidth=1, linestyle="--")
    axes.set_ylim(bottom=0)
    if len(counts) <= MAX_LEGEND_LINES:
        axes.legend(framealpha=1, edgecolor="none", fontsize=8)
    return figure


def _canvas(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label, color=TEXT_COLOUR, fontsize=9)
    axes.set_ylabel(y_label, color=TEXT_COLOUR, fontsize=9)
    axes.tick_params(colors=TEXT_COLOUR, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue().split("?>", 1)[-1].split('.dtd">', 1)[-1]  # drop the XML prologue and doctype
