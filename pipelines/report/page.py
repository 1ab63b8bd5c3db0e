"""A self-contained HTML page: embedded pictures, no scripts, nothing fetched."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.55 system-ui, sans-serif; color: #1f2933; margin: 0 auto; max-width: 1080px; }
body { padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; }
h2 { border-top: 1px solid #e4e7eb; padding-top: 1.6rem; }
p { max-width: 46rem; } .lead { color: #52606d; }
figure { margin: 1rem 0; display: inline-block; vertical-align: top; margin-right: 1.4rem; }
figcaption { color: #52606d; font-size: .86rem; max-width: 34rem; }
img { image-rendering: pixelated; max-width: 100%; border-radius: 4px; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .34rem 1.1rem .34rem 0; border-bottom: 1px solid #e4e7eb; }
td:nth-child(2), th:nth-child(2) { text-align: right; } td:nth-child(3), th:nth-child(3) { color: #52606d; }
dl { display: grid; grid-template-columns: max-content auto; gap: .2rem 1.4rem; }
dt { color: #52606d; } dd { margin: 0; }
pre { font-size: .86rem; background: #f5f7fa; border-radius: 4px; padding: .8rem 1rem; overflow-x: auto; }
"""


class Page:
    """Collects parts in order and writes them as one file."""

    def __init__(self, title: str, lead: str) -> None:
        self._title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{html.escape(lead)}</p>']

    def section(self, title: str, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>")

    def still(self, pixels: np.ndarray, caption: str) -> None:
        """Adds a picture, uint8 [H, W, 3], without loss."""
        self._figure(_inline(pixels), caption)

    def moving(self, frames: np.ndarray, frame_rate: float, caption: str) -> None:
        """Adds a video, uint8 [T, H, W, 3], as an animated PNG that loops: lossless, unlike a GIF."""
        self._figure(_inline(frames, duration=1000 / frame_rate, loop=0), caption)

    def chart(self, svg: str, caption: str) -> None:
        self._parts.append(f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        cells = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
        cells += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
        self._parts.append(f"<table>{''.join(cells)}</table>")

    def facts(self, facts: Mapping[str, str]) -> None:
        rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items())
        self._parts.append(f"<dl>{rows}</dl>")

    def listing(self, text: str) -> None:
        self._parts.append(f"<pre>{html.escape(text)}</pre>")

    def write(self, path: Path) -> None:
        head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(self._title)}</title>'
        path.write_text(f"{head}<style>{STYLE}</style><body>{''.join(self._parts)}</body></html>", encoding="utf-8")

    def _figure(self, source: str, caption: str) -> None:
        text = html.escape(caption)
        self._parts.append(f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>')


def _inline(pixels: np.ndarray, **options: Any) -> str:
    stream = io.BytesIO()
    imageio.imwrite(stream, pixels, extension=".png", plugin="pillow", **options)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
