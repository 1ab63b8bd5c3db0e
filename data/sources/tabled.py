"""What sources of files share: tables of numbers for each frame, as CSV files beside the videos."""

from __future__ import annotations

import numpy as np

from tokenreel.data.controls.frame_table import FrameTables
from tokenreel.data.sources.base import VideoSource


class TabledSource(VideoSource):
    """Its member sets `_tables`; a video goes by its id in them."""

    _tables: FrameTables

    def columns(self, file: str) -> tuple[str, ...]:
        return self._tables.columns(file)

    def numbers(self, index: int, file: str, columns: tuple[str, ...]) -> np.ndarray:
        return self._tables.numbers(self.entries[index].id, file, columns)

    def table_sha256(self, file: str) -> str:
        return self._tables.sha256(file)
