"""What a perfect prior would need on Tabletop videos: the bits of the data's own choices, spread over the codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tokenreel.config import from_mapping
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip


def choice_bits_per_code(cache: TokenCache, videos: Path, given_frames: int) -> float:
    """Mean over the held-out clips of `cache`, which was made from the folder that `tokenreel tabletop` wrote.

    An upper bound for a prior that knows the state at the last given frame; what one frame does not show of it (the
    class, where a stroke is going) comes on top.
    """
    config = from_mapping(TabletopConfig, json.loads((videos / "tabletop.json").read_text()))
    rows = cache.rows("validation")
    firsts = cache.column("first_frame")[rows]
    bits = []
    for video, first in zip(cache.source_ids(rows), firsts.tolist(), strict=True):
        clip = tabletop_clip(config, int(Path(video).stem))
        last = first + cache.spec.frames - 1
        bits.append(clip.choice_entropy_bits(first + given_frames - 1) - clip.choice_entropy_bits(last))
    codes = sum(s.positions * (cache.spec.frames - given_frames) // cache.spec.frames for s in cache.spec.levels)
    return float(np.mean(bits)) / codes
