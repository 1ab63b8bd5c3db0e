"""Pictures of the tokens of a cache or token file as PNG files: LVT figures 5 and 6 to 11, these without the videos."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as imageio

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.order import evenly_spaced
from tokenreel.data.spec import StreamSpec, TokenSpec
from tokenreel.errors import DataError
from tokenreel.metrics.codes import CodeCounter
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.report.charts import sorted_frequencies_png
from tokenreel.pipelines.report.pictures import code_picture

MAX_NAME_CHARACTERS = 80  # the end of a source's id, which may be a path longer than file names can be


def write_code_pictures(
    cache: TokenCache, counters: Mapping[str, CodeCounter], folder: Path, clips: int
) -> dict[str, Any]:
    """Writes `<row>_<source>_<stream>.png` for `clips` evenly spaced clips and `codes_<stream>.png`, a chart of
    `counters`, into the new `folder`. Returns what was written.

    In samples, a bar follows the code steps of given frames. Raises DataError if the cache holds no clip yet.
    """
    rows = evenly_spaced(cache.rows(), clips)
    if not len(rows):
        raise DataError(f"{cache.path} holds no complete clip yet, so --pictures has nothing to show: tokenize first")
    fresh_folder(folder, "--pictures")
    files = []
    for row, source in zip(rows.tolist(), cache.source_ids(rows), strict=True):
        for name, tokens in cache.read([row]).items():
            given = given_steps(cache.spec, cache.spec.stream(name), cache.provenance.get("given_frames", 0))
            files.append(f"{row:06d}_{_file_name(source)}_{name}.png")
            picture = code_picture(tokens[0], given)
            encoded = imageio.imwrite("<bytes>", picture, plugin="pillow", extension=".png")
            (folder / files[-1]).write_bytes(encoded)
    for name, counter in counters.items():
        files.append(f"codes_{name}.png")
        (folder / files[-1]).write_bytes(sorted_frequencies_png(counter.counts, "codes, most frequent first"))
    return {"folder": str(folder), "clips": len(rows), "files": files}


def given_steps(spec: TokenSpec, stream: StreamSpec, frames: int) -> int:
    """Number of code steps of `stream` whose frames are all among the first `frames`; 0 for a control stream."""
    if stream.role == "control":
        return 0
    return sum(spec.frames_of_step(step, stream).stop <= frames for step in range(stream.grid[0]))


def _file_name(source: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", source)[-MAX_NAME_CHARACTERS:]
