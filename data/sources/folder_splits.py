"""Splits and classes that the names of folders state, and splits that the names of shards and arrays state."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tokenreel.data.splits import is_split_name, split_of_name

OUTSIDE = "outside-splits"  # reason of a video that is not below a split folder where the others are


@dataclass(frozen=True)
class Place:
    """What the folders of a video say about it."""

    split: str | None  # the folder's name, or the word in it, as it is written
    label: str | None


def places(names: Sequence[str]) -> dict[str, Place | None]:
    """The place of each name, a path with / between folders; None for one outside of the split folders.

    Folders at one depth are splits if all folders there are named after splits, or if one is named after training and
    another after validation or test: then what lies beside them (`replacement/`, `intro.mp4`) is outside. Only where
    no folder is named after training do videos beside the split folders belong to the data, without a split. The class
    is the first other folder; a folder that contains all splits is none. Where no depth has such folders, words in
    names count (`train_256`, `val_256`), if those of all folders name training and another split and are otherwise the
    same but for numbers: `bullet_train` and `test_tube` are classes.
    """
    folders = {name: PurePosixPath(name).parts[:-1] for name in names}
    depths = range(max(map(len, folders.values()), default=0))
    for depth in depths:
        if _are_splits(folders.values(), depth):
            return _divided(folders, depth, lambda name: name if is_split_name(name) else None)
    for depth in depths:
        if _contain_split_words({parts[depth] for parts in folders.values() if len(parts) > depth}):
            return _divided(folders, depth, _split_word)
    return {name: Place(None, parts[0] if parts else None) for name, parts in folders.items()}


def classes_like_splits(found: Iterable[Place | None]) -> set[str]:
    """The classes with a word for a split in their names, where no folder states a split."""
    known = [place for place in found if place is not None]
    if any(place.split for place in known):
        return set()
    return {place.label for place in known if place.label is not None and _split_word(place.label)}


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
    words = list(filter(is_split_name, _words(container)))
    return words[0] if len(words) == 1 else None


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name)


def _contain_split_words(names: set[str]) -> bool:
    splits = {split_of_name(word, name) for name in names if (word := _split_word(name))}
    if not {"train"} < splits or not all(map(_split_word, names)):
        return False
    return len({tuple(word.lower() for word in _words(name) if not is_split_name(word)) for name in names}) == 1


def _are_splits(folders: Iterable[tuple[str, ...]], depth: int) -> bool:
    folders = list(folders)
    found = {parts[depth] for parts in folders if len(parts) > depth}
    splits = {split_of_name(name, name) for name in found if is_split_name(name)}
    if "train" in splits and len(splits) > 1:
        return True
    in_one_folder = len({parts[:depth] for parts in folders}) == 1
    return in_one_folder and all(map(is_split_name, found))


def _divided(
    folders: Mapping[str, tuple[str, ...]], depth: int, split_in: Callable[[str], str | None]
) -> dict[str, Place | None]:
    """`split_in`: the split that the name of a folder at `depth` states; None if it states none."""
    inside = {name: parts for name, parts in folders.items() if len(parts) > depth and split_in(parts[depth])}
    splits = {name: split_in(parts[depth]) for name, parts in inside.items()}
    trained = any(split_of_name(split, name) == "train" for name, split in splits.items() if split)
    in_one_folder = len({parts[:depth] for parts in inside.values()}) == 1
    found: dict[str, Place | None] = {}
    for name, parts in folders.items():
        if name in inside:
            classes = (() if in_one_folder else parts[:depth]) + parts[depth + 1 :]
            found[name] = Place(splits[name], classes[0] if classes else None)
        else:
            found[name] = None if trained or len(parts) > depth else Place(None, None)
    return found
