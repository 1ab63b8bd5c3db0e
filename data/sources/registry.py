"""The kinds of sources: ours, and those that were added in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.location import Location
from tokenreel.errors import ConfigError

Opener = Callable[[Location], VideoSource | None]  # None: what is there is of another kind; raises DataError


@dataclass(frozen=True)
class SourceKind:
    """A kind of source."""

    name: str
    open: Opener
    expects: str  # what it opens, for a message about what is none of it


class SourceRegistry:
    """The kinds that are known; those that were added are tried before ours, in the order in which they came."""

    kind = "source"

    def __init__(self, ours: Iterable[SourceKind]) -> None:
        self._ours = tuple(ours)
        self._added: list[SourceKind] = []

    def __iter__(self) -> Iterator[SourceKind]:
        yield from self._added
        yield from self._ours

    @property
    def expected(self) -> str:
        """All that is known, in words."""
        *others, last = [kind.expects for kind in self]
        return f"{', '.join(others)} or {last}"

    def register(self, name: str, open: Opener, expects: str) -> None:
        """Adds a kind of source for this process and those that it starts; the same one once more changes nothing.

        `open` gets every location that is opened and returns None for those that are of another kind. Its sources have
        to keep the contract of `VideoSource`; tests/helpers/source_contract.py checks it.

        Decode workers and the processes of `tokenize-dataset` open the location again. They are told the module and the
        name of `open` and import it from there, so it has to be a function at the top of a module that can be imported:
        no lambda, and not of the script that is run, `__main__`. That module is better without torch, which makes
        workers start slowly. `DecodePool(..., workers=0)` takes any function. Raises ConfigError where the name is
        another kind's.
        """
        kind = SourceKind(name, open, expects)
        if kind in self._added:
            return
        if name in {known.name for known in self}:
            raise ConfigError(f"a kind of source is called {name!r} already; register this one by another name")
        self._added.append(kind)

    def registered(self) -> list[tuple[str, Opener, str]]:
        return [(kind.name, kind.open, kind.expects) for kind in self._added]
