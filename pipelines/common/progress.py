"""Progress of long commands on standard error: a bar on a terminal, else a line every LINE_EVERY_S seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm

LINE_EVERY_S = 30.0

T = TypeVar("T")
_quiet = False


def silence() -> None:
    """Turns progress off for the rest of the process (`--quiet`)."""
    global _quiet
    _quiet = True


def progress(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` and counts them as they are consumed. `total` is needed only if `items` has no length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(total, what, unit) as bar:
        for item in items:
            yield item
            bar.advance()


class Progress:
    """A context manager that counts towards `total` (None: unknown), for work that advances by several units at once.

    Silent after `silence()`, and in all processes of a launched group except the first.
    """

    def __init__(self, total: int | None, what: str, unit: str, done: int = 0) -> None:
        silent = _quiet or os.environ.get("RANK", "0") != "0"
        self._lines = not silent and not sys.stderr.isatty()
        self._bar = tqdm(
            total=total, desc=what, unit=f" {unit}", initial=done, disable=silent or self._lines, file=sys.stderr
        )
        self._what, self._unit, self._total = what, unit, total
        self._done = self._initial = done
        self._started = self._last_line = time.monotonic()

    def advance(self, count: int = 1, **values: Any) -> None:
        """Adds `count` units; `values` (a loss, a rate) are shown beside the count."""
        self._done += count
        self._bar.set_postfix(values, refresh=False)
        self._bar.update(count)
        if self._lines and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            sys.stderr.write(self._line(values) + "\n")
            sys.stderr.flush()

    def _line(self, values: dict[str, Any]) -> str:
        elapsed = time.monotonic() - self._started
        suffix = "".join(f", {name} {value}" for name, value in values.items())
        meter = tqdm.format_meter(
            self._done,
            self._total,  # type: ignore[arg-type]  # None is shown as a question mark
            elapsed,
            prefix=self._what,
            unit=f" {self._unit}",
            initial=self._initial,
            bar_format="{desc}: {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_fmt}]",
        )
        return meter + suffix

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
