"""Errors that a user can correct, shown by the command line without a traceback; any other exception is a bug."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Base class; the message names what is wrong, its value and what to do."""


class ConfigError(UserError, ValueError):
    """A flag, a preset or a configuration file has an invalid value."""


class DataError(UserError, ValueError):
    """The data cannot be read or does not contain what was requested."""


class CacheError(UserError, ValueError):
    """A token cache is missing, damaged, incomplete or unsuitable."""


class CheckpointError(UserError, ValueError):
    """A run folder or checkpoint is missing, damaged or belongs to another run."""


class HubError(UserError):
    """The Hub refused, could not be reached, or has an unsupported repository."""


MAX_SHOWN = 200  # characters of a value


def visible(text: str) -> str:
    """`text` with control characters as escapes (\\x1b), so that a file's name cannot command the terminal; line breaks
    and tabs stay, and bytes that are no UTF-8 become escapes.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """A value as messages show it: its repr, of at most MAX_SHOWN characters."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def nearest_name(name: str, known: Iterable[str]) -> str:
    """What ends a message about an unknown name: the known ones that it begins, or else the nearest one, and all."""
    name = name[:MAX_SHOWN]
    names = sorted(known)
    longer = [other for other in names if len(name) > 2 and other.startswith(name.removesuffix("s"))]
    near = longer[:3] or difflib.get_close_matches(name, names, 1)
    every = ", ".join(names) or "none"
    return f"did you mean {' or '.join(map(repr, near))}? Known: {every}" if near else f"known: {every}"
