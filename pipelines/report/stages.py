"""The stages of a run: what each returned, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Stages:
    """Runs stages one after the other and keeps their summaries."""

    def __init__(self) -> None:
        self.summaries: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}

    def run(self, name: str, stage: Callable[..., dict[str, Any]], **flags: Any) -> None:
        started = time.perf_counter()
        self.summaries[name] = stage(**flags)
        self.seconds[name] = time.perf_counter() - started

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())
