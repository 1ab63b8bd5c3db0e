"""The summary of a command for people: nested plain data as aligned lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

INDENT = "  "


def summary_lines(summary: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """One line for each value; mappings indent, lists of mappings become blocks, other lists stand on one line."""
    width = max((len(key) for key, value in summary.items() if not _nested(value)), default=0)
    for key, value in summary.items():
        if not _nested(value):
            yield f"{INDENT * depth}{key:<{width}}  {_text(value)}"
            continue
        yield f"{INDENT * depth}{key}:"
        for part in [value] if isinstance(value, Mapping) else value:
            yield from summary_lines(part, depth + 1)


def _nested(value: Any) -> bool:
    return bool(value) and (
        isinstance(value, Mapping) or (isinstance(value, list | tuple) and all(isinstance(v, Mapping) for v in value))
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value is None or value == {} else str(value)
