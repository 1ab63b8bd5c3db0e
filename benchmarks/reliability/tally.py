"""What a trial came to, and the counts of many as one row of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum


class Outcome(Enum):
    """`NOTICED`: an error of ours, or verify says it. `HARMLESS`: the result is that of undisturbed files.

    The others are faults: `SILENT`, another result and no word; `LOST`, something that was there is gone or cannot be
    continued; `TRACEBACK`, any other exception.
    """

    NOTICED = "noticed"
    HARMLESS = "harmless"
    SILENT = "silent"
    LOST = "lost"
    TRACEBACK = "tracebacks"


FAULTS = (Outcome.SILENT, Outcome.LOST, Outcome.TRACEBACK)
COLUMNS = ("kind", "tried", *(outcome.value for outcome in Outcome), "peak memory (MiB)")


@dataclass
class Tally:
    """One row of the table."""

    kind: str
    counts: Counter[Outcome] = field(default_factory=Counter)
    peak_mib: int | None = None  # of the main process
    faults: list[str] = field(default_factory=list)  # what came to a fault, and how

    def add(self, outcome: Outcome, what: str) -> None:
        self.counts[outcome] += 1
        if outcome in FAULTS:
            self.faults.append(f"{self.kind}: {outcome.value}: {what}")

    @property
    def row(self) -> list[str]:
        counts = [self.counts[outcome] for outcome in Outcome]
        peak = "" if self.peak_mib is None else f"{self.peak_mib:,}"
        return [self.kind, *(f"{count:,}" for count in (sum(counts), *counts)), peak]


def table(tallies: Iterable[Tally]) -> str:
    """In Markdown."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *(tally.row for tally in tallies)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
