"""Splits: assigns videos, or rows of imported tokens, to train, validation and test by their names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tokenreel.errors import DataError, nearest_name

SPLITS = ("train", "validation", "test")
_NAMES = {  # in data sets, those that Hugging Face's `datasets` knows among them
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "holdout": "test",
    "heldout": "test",
}


def split_of_name(name: str, what: str) -> str:
    """The member of SPLITS for a data set's `name` of it. Raises DataError, naming `what`, for an unknown one."""
    if name.lower() not in _NAMES:
        raise DataError(f"{what}: split {name!r} is not known; {nearest_name(name, _NAMES)}")
    return _NAMES[name.lower()]


def is_split_name(name: str) -> bool:
    """Whether data sets call a split by this name, in any case."""
    return name.lower() in _NAMES


def select_validation(ids: Sequence[str], fraction: float, seed: int) -> set[str]:
    """The ids held out: about `fraction` of them, chosen by a hash of (seed, id), so that added videos move none.

    Of two or more ids, at least one is held out and one is not; with a fraction of 0, none is.
    """
    if fraction == 0 or len(ids) < 2:
        return set()
    ordered = sorted(ids, key=lambda name: _hash_fraction(seed, name))
    count = sum(_hash_fraction(seed, name) < fraction for name in ids)
    return set(ordered[: min(max(count, 1), len(ids) - 1)])


def _hash_fraction(seed: int, name: str) -> float:
    """A number in [0, 1) from a hash of the name, the same on every machine."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
