"""Draws docs/architecture.png: the two stages, what passes between them, and what is saved where.

Usage: python docs/architecture.py [FILE]. The frames are Tabletop's; the token maps are coarse colours of such frames.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip

WIDTH, HEIGHT = 100.0, 57.0  # units of the drawing
INK, GREY = "#1f2933", "#52606d"
PIXELS, TOKENS, MODEL, WALL = "#e8f1fb", "#fdf1df", "#ffffff", "#b42318"
FRAMES, GAP, GRID = 3, 5, 8  # frames shown of a video, frames from one to the next, tokens on a side

Box = tuple[float, float, float, float]  # left, bottom, width, height


def draw() -> Figure:
    figure = Figure(figsize=(9, 5.13), dpi=200, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    _stages(axes)
    _tokenizer(axes)
    _data(axes)
    _prior(axes)
    _arrows(axes)
    return figure


def _stages(axes: Axes) -> None:
    _box(axes, (1, 1, 67, 55), PIXELS, edge="none")
    _box(axes, (74, 1, 25, 55), TOKENS, edge="none")
    axes.text(2.5, 53.3, "Stage one: pixels and tokens", size=11, weight="bold", color=INK, va="center")
    axes.text(75.5, 53.3, "Stage two: tokens only", size=11, weight="bold", color=INK, va="center")
    axes.plot([71, 71], [1, 56], color=WALL, linewidth=2.2, linestyle=(0, (4, 2)))
    axes.text(72.6, 24.5, "tokens cross, pixels do not", size=8.5, color=WALL, rotation=90, ha="center", va="center")


def _tokenizer(axes: Axes) -> None:
    _box(axes, (29, 3, 25, 43), "#d3e4f7", edge="#7c9cc4")
    axes.text(41.5, 27.6, "tokenizer", size=10, weight="bold", color=INK, ha="center", va="center")
    _words(axes, 41.5, 24.6, "train-tokenizer", "runs/tokenizer/")
    _model(axes, (30.5, 32, 10, 11), "encoder", "frames to\nlatents")
    _model(axes, (43, 32, 9.5, 11), "quantizer", "latents to\ntokens")
    _model(axes, (43, 6, 9.5, 11), "codebook", "tokens to\nlatents")
    _model(axes, (30.5, 6, 10, 11), "decoder", "latents to\nframes")


def _data(axes: Axes) -> None:
    true, other = _video(index=0, first=0), _video(index=0, first=FRAMES * GAP)
    _pictures(axes, (2.5, 32.5), true, "videos")
    _pictures(axes, (2.5, 6.5), other, "generated videos", nudge=1.9)
    _pictures(axes, (56, 32.5), _token_maps(true), "token cache")
    _pictures(axes, (56, 6.5), _token_maps(other), "samples")
    _model(axes, (17.5, 32, 9.5, 11), "plan", "rows: clips;\nsplits: videos")
    _words(axes, 61.5, 30.3, "tokenize-dataset", "tokens.zarr/")
    _words(axes, 61.5, 4.6, "sample", "samples.zarr/")
    _words(axes, 8.5, 4.6, "decode", "samples/*.mp4")
    _model(axes, (2.5, 47.2, 24.5, 4), "controls", "", "class, states, sound")


def _prior(axes: Axes) -> None:
    _model(axes, (77, 32, 19, 11), "prior", "p(next token | earlier\ntokens, controls)")
    _model(axes, (77, 6, 19, 11), "sampler", "temperature, top-k,\nguidance, ...")
    _words(axes, 86.5, 30.3, "train-prior", "runs/prior/")
    cascade = "one prior, or a cascade:\ncontrols, then coarse to fine"
    axes.text(86.5, 47.8, cascade, size=8, color=GREY, ha="center", va="center", linespacing=1.3)
    axes.text(86.5, 2.8, "given frames and controls", size=8, color=GREY, ha="center", va="center")


def _arrows(axes: Axes) -> None:
    for points in [
        [(15, 37.5), (17.3, 37.5)],
        [(27.2, 37.5), (30.3, 37.5)],
        [(40.7, 37.5), (42.8, 37.5)],
        [(52.7, 37.5), (55.6, 37.5)],
        [(67.6, 37.5), (76.8, 37.5)],
        [(86.5, 27.2), (86.5, 17.3)],
        [(86.5, 4), (86.5, 5.9)],
        [(76.8, 11.5), (67.6, 11.5)],
        [(55.6, 11.5), (52.7, 11.5)],
        [(42.8, 11.5), (40.7, 11.5)],
        [(30.3, 11.5), (15, 11.5)],
        [(22, 11.5), (22, 20), (35.5, 20), (35.5, 17.3)],
        [(27.2, 49.2), (61.5, 49.2), (61.5, 46.2)],
    ]:
        _arrow(axes, points)
    axes.text(44, 50.3, "control streams (fit-controls)", size=8, color=GREY, ha="center", va="center")
    axes.text(23.4, 22.7, "context:\nprevious frames", size=8, color=GREY, ha="center", va="center")


def _box(axes: Axes, box: Box, colour: str, edge: str = "#9aa5b1") -> None:
    left, bottom, width, height = box
    style = "round,pad=0,rounding_size=0.9"
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, style, facecolor=colour, edgecolor=edge))


def _model(axes: Axes, box: Box, name: str, does: str, beside: str = "") -> None:
    """A box with a name and, below or beside it, what it does."""
    _box(axes, box, MODEL)
    left, bottom, width, height = box
    across, up = left + width / 2, bottom + height / 2
    if beside:
        axes.text(left + 1, up, name, size=9.5, weight="bold", color=INK, va="center")
        axes.text(left + width - 1, up, beside, size=7.5, color=GREY, ha="right", va="center")
    else:
        axes.text(across, up + 2.1, name, size=9.5, weight="bold", color=INK, ha="center", va="center")
        axes.text(across, up - 1.8, does, size=7.5, color=GREY, ha="center", va="center", linespacing=1.15)


def _words(axes: Axes, across: float, up: float, command: str, saved: str) -> None:
    """The command that makes something, and where it is saved."""
    axes.text(across, up, command, size=8, color=GREY, ha="center", va="center")
    axes.text(across, up - 2.3, saved, size=7.5, color=INK, family="monospace", ha="center", va="center")


def _arrow(axes: Axes, points: list[tuple[float, float]]) -> None:
    axes.plot(*zip(*points[:-1], strict=True), color=INK, linewidth=1.4)
    style = {"arrowstyle": "-|>", "mutation_scale": 12, "linewidth": 1.4, "color": INK, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(points[-2], points[-1], **style))


def _pictures(axes: Axes, corner: tuple[float, float], pictures: np.ndarray, name: str, nudge: float = 0) -> None:
    """Pictures [n, h, w, 3], each before and below the one after it, with a name above."""
    left, bottom = corner
    for i in reversed(range(len(pictures))):
        place = (left + 1.3 * i, left + 1.3 * i + 8.5, bottom + 1.0 * i, bottom + 1.0 * i + 8.5)
        axes.imshow(pictures[i], extent=place, aspect="auto", interpolation="nearest", zorder=2)
        axes.plot(*_outline(place), color="white", linewidth=1.2, zorder=2)
    axes.text(left + 5.6 + nudge, bottom + 12.2, name, size=9.5, weight="bold", color=INK, ha="center", va="center")


def _outline(place: tuple[float, float, float, float]) -> tuple[list[float], list[float]]:
    left, right, bottom, top = place
    return [left, right, right, left, left], [bottom, bottom, top, top, bottom]


def _video(index: int, first: int) -> np.ndarray:
    """uint8 [FRAMES, 64, 64, 3]"""
    frames = tabletop_clip(TabletopConfig(frames=first + FRAMES * GAP), index).frames
    return frames[first::GAP][:FRAMES]


def _token_maps(frames: np.ndarray) -> np.ndarray:
    """[n, H, W, 3] -> [n, GRID, GRID, 3]: a colour for each token, here for each coarse mean colour of a patch."""
    side = frames.shape[1] // GRID
    patches = frames.reshape(len(frames), GRID, side, GRID, side, 3).mean((2, 4))
    tokens = (patches // 24).astype(int) @ [1, 11, 121]
    palette = np.random.default_rng(3).integers(70, 235, (tokens.max() + 1, 3))
    return palette[tokens].astype(np.uint8)


if __name__ == "__main__":
    draw().savefig(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_suffix(".png"))
