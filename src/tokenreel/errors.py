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


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Ends an error message about an unknown name: the nearest known one if there is one, and the known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(names)}"
