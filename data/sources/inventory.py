"""What a source skipped of what lies at its location, by reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_EXAMPLES = 5  # names kept of each reason


@dataclass(frozen=True)
class Skipped:
    """Files, folders, arrays or videos that are not used, for one reason."""

    reason: str
    count: int
    examples: tuple[str, ...]  # the first names, sorted


@dataclass(frozen=True)
class Inventory:
    """All that a source skipped, and what it may have read otherwise than it was meant. It does not depend on the order
    in which a file system lists files.
    """

    skipped: tuple[Skipped, ...] = ()  # sorted by reason, each reason once
    unread_columns: tuple[str, ...] = ()  # of the metadata
    classes_like_splits: tuple[str, ...] = ()  # classes whose folders have a word for a split in their names

    @classmethod
    def of(
        cls,
        names: Mapping[str, Iterable[str]],
        unread_columns: Iterable[str] = (),
        classes_like_splits: Iterable[str] = (),
    ) -> Inventory:
        """From the names by reason; reasons without names are dropped."""
        listed = {reason: sorted(map(_printable, found)) for reason, found in names.items()}
        kept = sorted((reason, found) for reason, found in listed.items() if found)
        skipped = tuple(Skipped(reason, len(found), tuple(found[:MAX_EXAMPLES])) for reason, found in kept)
        return cls(skipped, tuple(sorted(set(unread_columns))), tuple(sorted(map(_printable, classes_like_splits))))

    @property
    def count(self) -> int:
        return sum(item.count for item in self.skipped)

    def __str__(self) -> str:
        return "; ".join(f"{item.count} {item.reason} ({item.examples[0]})" for item in self.skipped)

    def plus(self, other: Inventory) -> Inventory:
        """Both together."""
        by_reason: dict[str, Skipped] = {}
        for item in (*self.skipped, *other.skipped):
            known = by_reason.get(item.reason, Skipped(item.reason, 0, ()))
            examples = tuple(sorted((*known.examples, *item.examples))[:MAX_EXAMPLES])
            by_reason[item.reason] = Skipped(item.reason, known.count + item.count, examples)
        skipped = tuple(by_reason[reason] for reason in sorted(by_reason))
        columns = {*self.unread_columns, *other.unread_columns}
        classes = {*self.classes_like_splits, *other.classes_like_splits}
        return Inventory(skipped, tuple(sorted(columns)), tuple(sorted(classes)))

    def to_json(self, taken: int) -> dict[str, Any]:
        """`taken`: the number of videos that are used. `found` counts these and all that was skipped."""
        skipped = {item.reason: {"count": item.count, "examples": list(item.examples)} for item in self.skipped}
        doubtful = {"unread_columns": self.unread_columns, "classes_like_splits": self.classes_like_splits}
        stated = {name: list(found) for name, found in doubtful.items() if found}
        return {"found": taken + self.count, "taken": taken, "skipped": skipped, **stated}


def _printable(name: str) -> str:
    """A name that is not UTF-8 can be neither printed nor written as JSON."""
    return name.encode("utf-8", "backslashreplace").decode()
