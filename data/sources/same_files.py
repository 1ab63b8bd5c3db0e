"""One file under several names (links to files and folders, hard links): it is one video, and is taken once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenreel.data.sources.base import VideoEntry
from tokenreel.data.sources.inventory import Inventory
from tokenreel.data.splits import is_split_name, split_of_name
from tokenreel.data.walk import identity
from tokenreel.errors import DataError

SAME_FILE = "same-file"  # reason of a name of a file that is taken under another name


def taken_once(
    entries: Iterable[VideoEntry], files: Mapping[str, Sequence[Path]]
) -> tuple[list[VideoEntry], Inventory]:
    """The entries without further names of the same files (`files`: those of each id, in order), which are counted: as
    videos of their own, some would be trained on and others held out. The first in the order of ids is taken.

    Raises DataError where the names of a file state different splits, classes or groups.
    """
    similar = defaultdict[object, list[VideoEntry]](list)
    for entry in sorted(entries, key=lambda entry: entry.id):
        similar[_identity(files[entry.id][0])].append(entry)  # of a folder of frames, not yet of all its pictures
    taken: list[VideoEntry] = []
    others: list[str] = []
    for alike in similar.values():
        first: dict[object, VideoEntry] = {}
        for entry in alike:
            key = tuple(map(_identity, files[entry.id])) if len(alike) > 1 else None
            known = first.setdefault(key, entry)
            if known is entry:
                taken.append(entry)
            else:
                _require_alike(known, entry)
                others.append(f"{entry.id} is {known.id}")
    return taken, Inventory.of({SAME_FILE: others})


def _require_alike(first: VideoEntry, other: VideoEntry) -> None:
    for what in ("split", "label", "group"):
        one, two = getattr(first, what), getattr(other, what)
        if one != two and not (what == "split" and _one_split(one, two)):
            raise DataError(
                f"{first.id} and {other.id} are the same file, but the {what} of one is {one or 'not stated'} and that "
                f"of the other {two or 'not stated'}: remove one of the two"
            )


def _one_split(one: str | None, two: str | None) -> bool:
    """Whether two names are of one split, such as val and validation."""
    names = [name for name in (one, two) if name is not None and is_split_name(name)]
    return len(names) == 2 and len({split_of_name(name, name) for name in names}) == 1


def _identity(path: Path) -> object:
    try:
        device, inode = identity(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    return (device, inode) if inode else path  # some network file systems number no files
