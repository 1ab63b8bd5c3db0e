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
    """Ends an error message about an unknown name: the known ones that it begins, or the nearest one, and all."""
    names = sorted(known)
    begun = [other for other in names if len(name) > 2 and other.startswith(name.removesuffix("s"))]
    near = begun[:3] or difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"{hint}Known: {', '.join(names) or 'none'}"
