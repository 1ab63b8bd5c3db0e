"""What a user gives as `--data`, taken apart: a path or another name, and the options behind its `?`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qsl

from tokenreel.errors import DataError, nearest_name


class Location:
    """`frames/?fps=10` is the path `frames` with the option `fps`. Nothing is looked up before it is asked for."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.options_read = False  # whether somebody asked for the options, and so refused those that are not known

    @property
    def written(self) -> str:
        """The text without options, unchanged. Raises DataError if what follows `?` cannot be read."""
        return self._parts[0]

    @cached_property
    def path(self) -> Path:
        """The text without options; it has a name, as . and .. become the folder that they stand for.

        Raises DataError where what follows `?` cannot be read.
        """
        path = Path(self.written)
        return path.resolve() if path.name in ("", "..") else path

    def options(self, *known: str) -> Mapping[str, str]:
        """The options as they are written. Raises DataError for one that is not `known`."""
        self.options_read = True
        options = self._parts[1]
        for name in options:
            if name not in known:
                hint = nearest_name(name, known) if known else "videos of this kind take none"
                raise DataError(f"{self.text}: option {name!r} is not known; {hint}")
        return options

    def frame_rate(self) -> float | None:
        """The option `fps` of frames that carry no times, in frames a second; None where it is not given."""
        text = self.options("fps").get("fps")
        if text is None:
            return None
        try:
            rate = float(text)
        except ValueError:
            rate = 0.0
        if not 0 < rate < float("inf"):
            raise DataError(f"{self.text}: fps (={text}) must be a positive number of frames a second")
        return rate

    def file(self, *suffixes: str) -> Path | None:
        """The path, where it is a file with one of these suffixes in any case."""
        return self.path if self.path.suffix.lower() in suffixes and self.path.is_file() else None

    def files_below(self, *suffixes: str) -> list[Path]:
        """Where the path is a folder, the visible files below it with one of these suffixes in any case, sorted."""
        return sorted(path for suffix in suffixes for path in self._by_suffix.get(suffix, ()))

    def count_files(self) -> Counter[str]:
        """By suffix, how many visible files there are below the path."""
        return Counter({suffix: len(files) for suffix, files in self._by_suffix.items()})

    @cached_property
    def _by_suffix(self) -> Mapping[str, list[Path]]:
        """Hidden files are left out, such as the ._x.mp4 that macOS writes beside x.mp4."""
        found = defaultdict[str, list[Path]](list)
        if self.path.is_dir():
            try:
                for path in self.path.rglob("*"):
                    if self._is_visible(path) and path.is_file():
                        found[path.suffix.lower()].append(path)
            except OSError as error:
                raise DataError(f"{self.text}: {error.filename}: {error.strerror}") from error
        return found

    def _is_visible(self, path: Path) -> bool:
        return not any(part.startswith(".") for part in path.relative_to(self.path).parts)

    @cached_property
    def _parts(self) -> tuple[str, Mapping[str, str]]:
        """A path that exists as it is written has no options."""
        path, mark, query = self.text.partition("?")
        if not mark or Path(self.text).exists():
            return self.text, {}
        pairs = parse_qsl(query, keep_blank_values=True)
        if not pairs or len(dict(pairs)) != len(pairs):
            raise DataError(f"{self.text}: write what follows ? as name=value&name=value, each name once")
        return path, dict(pairs)
