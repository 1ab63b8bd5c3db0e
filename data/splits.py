"""Splits: assigns videos, or rows of imported tokens, to train, validation and test by their names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from tokenreel.errors import DataError, nearest_name

SPLITS = ("train", "validation", "test")
GROUP_MARK = "\0"  # before the name of a group: no id has this byte
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


def divide(declared: Mapping[str, str | None], groups: Mapping[str, str], fraction: float, seed: int) -> dict[str, str]:
    """The split of each id: that of `declared` (a member of SPLITS, None: not stated) if it has one. Where none is
    declared as validation, a hash of (seed, group) chooses about `fraction` of those that are not for test, ids of one
    group (an id without one is its own) together; else the undivided ones are for training.

    Raises DataError where two splits are declared for one group.
    """
    _require_undivided(groups, declared)
    available = sorted({groups[name] for name, split in declared.items() if split in (None, "train")})
    held_out = set() if "validation" in declared.values() else select_validation(available, fraction, seed)
    return {
        name: "validation" if split in (None, "train") and groups[name] in held_out else split or "train"
        for name, split in declared.items()
    }


def _require_undivided(groups: Mapping[str, str], declared: Mapping[str, str | None]) -> None:
    seen: dict[str, str] = {}  # group -> its first id
    for name in declared:
        group = groups[name]
        other = seen.setdefault(group, name)
        if declared[name] != declared[other]:
            raise DataError(
                f"{other} and {name} belong together (group {group.lstrip(GROUP_MARK)!r}), but the data state the "
                f"splits {declared[other] or 'none'} and {declared[name] or 'none'} for them: give both the same one"
            )


def _hash_fraction(seed: int, name: str) -> float:
    """A number in [0, 1) from a hash of the name, the same on every machine."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
