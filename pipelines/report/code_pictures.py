"""Pictures of a cache's or token file's codes as PNG files: LVT figure 5 and, without the videos, figures 6 to 11.

Knows no tokenizer: what the codes decode to is for `decode`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as imageio

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.order import spread
from tokenreel.data.spec import StreamSpec, TokenSpec
from tokenreel.errors import DataError
from tokenreel.metrics.codes import CodeCounter
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.report.charts import sorted_frequencies_png
from tokenreel.pipelines.report.pictures import code_picture

NAME_CHARACTERS = 80  # of a source's id, its end: a whole path may be longer than a file's name


def write_code_pictures(
    cache: TokenCache, counters: Mapping[str, CodeCounter], folder: Path, clips: int
) -> dict[str, Any]:
    """Writes, into the fresh `folder`, `<row>_<source>_<stream>.png` for `clips` clips spread over the cache and
    `codes_<stream>.png`, the chart of the counts in `counters`. Returns what was written.

    Steps of frames that were given to a sample stand left of a bar. Raises DataError where the cache holds no clip yet.
    """
    rows = spread(cache.rows(), clips)
    if not len(rows):
        raise DataError(f"{cache.path} holds no whole clip by now, so --pictures has nothing to draw: tokenize first")
    fresh_folder(folder, "--pictures")
    files = []
    for row, source in zip(rows.tolist(), cache.source_ids(rows), strict=True):
        for name, codes in cache.read([row]).items():
            given = given_steps(cache.spec, cache.spec.stream(name), cache.provenance.get("given_frames", 0))
            files.append(f"{row:06d}_{_file_name(source)}_{name}.png")
            picture = code_picture(codes[0], given)
            encoded = imageio.imwrite("<bytes>", picture, plugin="pillow", extension=".png")
            (folder / files[-1]).write_bytes(encoded)
    for name, counter in counters.items():
        files.append(f"codes_{name}.png")
        (folder / files[-1]).write_bytes(sorted_frequencies_png(counter.counts, "codes, most frequent first"))
    return {"folder": str(folder), "clips": len(rows), "files": files}


def given_steps(spec: TokenSpec, stream: StreamSpec, frames: int) -> int:
    """Code steps of `stream` whose frames are all among the first `frames`; 0 for a track, which has no frames."""
    if stream.role == "control":
        return 0
    return sum(spec.frames_of_step(step, stream).stop <= frames for step in range(stream.grid[0]))


def _file_name(source: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", source)[-NAME_CHARACTERS:]
