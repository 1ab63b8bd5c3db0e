"""The bits/code that a perfect prior needs on Tabletop videos: the entropy of the data's random choices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tokenreel.config import from_mapping
from tokenreel.data.cache.files import read_json
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.data.tabletop.scene import CONFIG_FILE


def choice_bits_per_code(cache: TokenCache, videos: Path, given_frames: int) -> float:
    """Mean bits/code over the held-out clips of `cache`, whose videos are in `videos`, written by `tokenreel tabletop`.

    An upper bound of what a perfect prior needs that knows the state at the last given frame; what frames do not show
    of the state (the class, the target of a stroke) is not included.
    """
    path = videos / CONFIG_FILE
    config = from_mapping(TabletopConfig, read_json(path), str(path))
    rows = cache.rows("validation")
    firsts = cache.column("first_frame", rows)
    bits = []
    for video, first in zip(cache.source_ids(rows), firsts.tolist(), strict=True):
        clip = tabletop_clip(config, int(Path(video).stem))
        last = first + cache.spec.frames - 1
        bits.append(clip.choice_entropy_bits(first + given_frames - 1) - clip.choice_entropy_bits(last))
    tokens = sum(s.positions * (cache.spec.frames - given_frames) // cache.spec.frames for s in cache.spec.levels)
    return float(np.mean(bits)) / tokens
