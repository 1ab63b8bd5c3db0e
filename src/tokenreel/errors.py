"""What a user can get wrong. The command line shows these without a traceback; everything else is a defect of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something outside the code is wrong; the message names it, its value and what to do."""


class ConfigError(UserError, ValueError):
    """A flag, a preset or a configuration file holds something that cannot be built."""


class DataError(UserError, ValueError):
    """The data given cannot be read or does not hold what was asked of it."""


class CacheError(UserError, ValueError):
    """A token cache is missing, damaged, unfinished or made for something else."""


class CheckpointError(UserError, ValueError):
    """A run folder or checkpoint is missing, damaged or belongs to another run."""


class HubError(UserError):
    """The Hub refused, was out of reach, or holds something that is not ours."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """What ends a message about an unknown name: the nearest known one, if there is one, and all known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}? Known: {', '.join(names)}" if near else f"known: {', '.join(names)}"
