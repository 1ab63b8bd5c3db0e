"""Splits and classes that the names of folders state, and splits that the names of shards and arrays state."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tokenreel.data.splits import is_split_name, split_of_name

OUTSIDE = "outside-splits"  # reason of a video that is not below a split folder where the others are


@dataclass(frozen=True)
class Place:
    """What the folders of a video say about it."""

    split: str | None  # the folder's name, as it is written
    label: str | None


def places(names: Sequence[str]) -> dict[str, Place | None]:
    """The place of each name, a path with / between folders; None for one outside of the split folders.

    Folders at one depth are splits if all folders there are named after splits, or if one is named after training and
    another after validation or test: then what lies beside them (`replacement/`, `intro.mp4`) is outside. Only where
    no folder is named after training do videos beside the split folders belong to the data, without a split. The class
    is the first other folder; a folder that contains all splits is none.
    """
    folders = {name: PurePosixPath(name).parts[:-1] for name in names}
    for depth in range(max(map(len, folders.values()), default=0)):
        if _are_splits(folders.values(), depth):
            return _divided(folders, depth)
    return {name: Place(None, parts[0] if parts else None) for name, parts in folders.items()}


def places_by_container(containers: Mapping[str, str]) -> dict[str, Place | None]:
    """The place of each name, as `places`; where no folder states a split, by a word in the name of its container, the
    value (`train-0003`, `x_test`), if such words name training and another split.
    """
    by_folder = places(list(containers))
    words = {name: _split_word(container) for name, container in containers.items()}
    splits = {split_of_name(word, word) for word in words.values() if word}
    if any(place is None or place.split for place in by_folder.values()) or not {"train"} < splits:
        return by_folder
    return {name: None if word is None else Place(word, None) for name, word in words.items()}


def _split_word(container: str) -> str | None:
    """The only word of the name that names a split; None if there is none, or more than one."""
    words = list(filter(is_split_name, re.split(r"[^A-Za-z]+", container)))
    return words[0] if len(words) == 1 else None


def _are_splits(folders: Iterable[tuple[str, ...]], depth: int) -> bool:
    folders = list(folders)
    found = {parts[depth] for parts in folders if len(parts) > depth}
    splits = {split_of_name(name, name) for name in found if is_split_name(name)}
    if "train" in splits and len(splits) > 1:
        return True
    in_one_folder = len({parts[:depth] for parts in folders}) == 1
    return in_one_folder and all(map(is_split_name, found))


def _divided(folders: Mapping[str, tuple[str, ...]], depth: int) -> dict[str, Place | None]:
    inside = {name: parts for name, parts in folders.items() if len(parts) > depth and is_split_name(parts[depth])}
    trained = any(split_of_name(parts[depth], name) == "train" for name, parts in inside.items())
    in_one_folder = len({parts[:depth] for parts in inside.values()}) == 1
    found: dict[str, Place | None] = {}
    for name, parts in folders.items():
        if name in inside:
            classes = (() if in_one_folder else parts[:depth]) + parts[depth + 1 :]
            found[name] = Place(parts[depth], classes[0] if classes else None)
        else:
            found[name] = None if trained or len(parts) > depth else Place(None, None)
    return found
