"""What fills a cache's tracks, as the cache's writer sees it: what to read for each clip, and codes made of it.

The coders themselves are stage one's (`tokenizers/controls/`); nothing here knows torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from tokenreel.data.controls.needs import Need, Raw


class TrackEncoder(Protocol):
    """Makes the codes of a clip's tracks out of raw controls."""

    @property
    def needs(self) -> Mapping[str, Need]:
        """By track."""

    def encode(self, raw: Mapping[str, Raw]) -> Mapping[str, np.ndarray]:
        """Raw controls of one clip by track -> int64 [t, h, w, q] by track. Raises DataError where they do not fit."""
