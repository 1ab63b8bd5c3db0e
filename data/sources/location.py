"""Parses the value of `--data`: a path or another name, and the options after `?`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qsl

from tokenreel.data.controls.frame_table import is_frame_table
from tokenreel.data.sources.inventory import Inventory
from tokenreel.data.walk import WalkedFolder, walk
from tokenreel.errors import DataError, nearest_name

_MAX_SUFFIXES = 8  # the rarer suffixes of unused files are counted together


class Location:
    """`frames/?fps=10` is the path `frames` with the option `fps`. Nothing is read before it is used."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.options_read = False  # whether somebody asked for the options, and so refused those that are not known

    @property
    def without_options(self) -> str:
        """The text before the options. Raises DataError if the options cannot be parsed."""
        return self._parts[0]

    @cached_property
    def path(self) -> Path:
        """The text before the options as a path; . and .. are resolved, so that it has a name.

        Raises DataError if the options cannot be parsed, and for a path that no file can have or that may not be read.
        """
        path = Path(self.without_options)
        self._exists(path)
        return path.resolve() if path.name in ("", "..") else path

    def options(self, *known: str) -> Mapping[str, str]:
        """The options by name, as text. Raises DataError for one that is not in `known`."""
        self.options_read = True
        options = {name: value for name, value in self._parts[1].items() if name != "kind"}
        for name in options:
            if name not in known:
                hint = nearest_name(name, known) if known else "videos of this kind have no options"
                raise DataError(f"{self.text}: option {name!r} is not known; {hint}")
        return options

    def frame_rate(self, *others: str) -> float | None:
        """The option `fps` of frames without times, in frames per second; None if it is not given.

        Raises DataError as `options`, where `others` are known too.
        """
        text = self.options("fps", *others).get("fps")
        if text is None:
            return None
        try:
            rate = float(text)
        except ValueError:
            rate = 0.0
        if not 0 < rate < float("inf"):
            raise DataError(f"{self.text}: fps (={text}) must be a positive number of frames per second")
        return rate

    @property
    def kind(self) -> str | None:
        """The option `kind`, the name of the kind of source to open where a folder contains several."""
        return self._parts[1].get("kind")

    def file(self, *suffixes: str) -> Path | None:
        """The path if it is a file with one of these suffixes, in any case; else None."""
        return self.path if self.path.suffix.lower() in suffixes and self.path.is_file() else None

    def files_below(self, *suffixes: str) -> list[Path]:
        """The visible files below the folder with one of these suffixes, in any case, sorted; none if it is a file."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    @property
    def files(self) -> tuple[Path, ...]:
        """The visible files below the folder, sorted; none if it is a file. Links to folders are followed."""
        return self._walked.files

    def count_files(self) -> Counter[str]:
        """The number of visible files below the path, by suffix."""
        return Counter(path.suffix.lower() for path in self.files)

    def inventory(self, used: Iterable[Path]) -> Inventory:
        """What is skipped below the folder if the opener uses the files `used`, and tables that controls may read."""
        unused = self._unused(frozenset(used))
        common = {suffix for suffix, _ in Counter(path.suffix.lower() for path in unused).most_common(_MAX_SUFFIXES)}
        names = {reason: list(found) for reason, found in self._walked.skipped.items()}
        for path in unused:
            suffix = path.suffix.lower() if path.suffix.lower() in common else "..."
            names.setdefault(f"unused {suffix or 'without suffix'}", []).append(path.relative_to(self.path).as_posix())
        return Inventory.of(names)

    def _unused(self, used: frozenset[Path]) -> list[Path]:
        return [path for path in self.files if path not in used and not is_frame_table(path)]

    @cached_property
    def _walked(self) -> WalkedFolder:
        return walk(self.path) if self.path.is_dir() else WalkedFolder((), {})

    def _exists(self, path: Path) -> bool:
        try:
            return path.exists()
        except OSError as error:  # a name that is too long, or a folder that may not be read
            raise DataError(f"{self.text[:200]}: {error.strerror}") from error

    @cached_property
    def _parts(self) -> tuple[str, Mapping[str, str]]:
        """The text before the options, and the options: none if the text is an existing path, which may contain ?."""
        path, mark, query = self.text.partition("?")
        if not mark or self._exists(Path(self.text)):
            return self.text, {}
        pairs = parse_qsl(query, keep_blank_values=True)
        if not pairs or len(dict(pairs)) != len(pairs):
            raise DataError(f"{self.text}: write the options after ? as name=value&name=value, each name once")
        return path, dict(pairs)
