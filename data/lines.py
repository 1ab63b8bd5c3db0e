"""Text files from outside: their lines, read one by one, as a small file may claim one line of any length; headers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TextIO

from tokenreel.errors import DataError

MAX_LINE = 4 << 20  # characters


def bounded_lines(file: TextIO) -> Iterator[str]:
    """The lines of an open file, each with its end, as `file` itself has them. Raises DataError for one of more than
    MAX_LINE characters.
    """
    while line := file.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise DataError(f"{file.name}: a line has more than {MAX_LINE:,} characters")
        yield line


def column_name(name: str, documented: Collection[str]) -> str:
    """The name of a column without spaces around it, and as it is `documented` where only the case differs."""
    name = name.strip()
    return name.lower() if name.lower() in documented else name
