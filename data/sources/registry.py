"""The kinds of sources: built-in ones, and those added in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.location import Location
from tokenreel.errors import ConfigError

Opener = Callable[[Location], VideoSource | None]  # None: the location is of another kind; raises DataError


@dataclass(frozen=True)
class SourceKind:
    """A kind of source, with the function that opens it."""

    name: str
    open: Opener
    expects: str  # what it opens, for the error message if no kind matches


class SourceRegistry:
    """The known kinds of sources; added ones are tried before the built-in ones, in the order of registration."""

    kind = "source"

    def __init__(self, built_in: Iterable[SourceKind]) -> None:
        self._built_in = tuple(built_in)
        self._added: list[SourceKind] = []

    def __iter__(self) -> Iterator[SourceKind]:
        yield from self._added
        yield from self._built_in

    @property
    def expected(self) -> str:
        """What all kinds open, in words."""
        *others, last = [kind.expects for kind in self]
        return f"{', '.join(others)} or {last}"

    def register(self, name: str, open: Opener, expects: str) -> None:
        """Adds a kind of source for this process and those that it starts; adding the same one again has no effect.

        `open` is called with every location that is opened and returns None for those of another kind. Its sources must
        keep the contract of `VideoSource`; tokenreel.testing.sources checks it.

        Decode workers and the processes of `tokenize-dataset` open the location again. They import `open` by its module
        and name, so it must be a function at the top level of an importable module: not a lambda, and not defined in
        the script that is run, `__main__`. That module should not import torch, which makes workers start slowly.
        `DecodePool(..., workers=0)` accepts any function. Raises ConfigError if another kind has the name.
        """
        kind = SourceKind(name, open, expects)
        if kind in self._added:
            return
        if name in {known.name for known in self}:
            raise ConfigError(f"a kind of source named {name!r} exists already; register this one under another name")
        self._added.append(kind)

    def registered(self) -> list[tuple[str, Opener, str]]:
        return [(kind.name, kind.open, kind.expects) for kind in self._added]
