"""The files below a folder, links to folders followed, and what was skipped on the way, by reason."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenreel.errors import DataError

HIDDEN, LOOP, BROKEN_LINK = "hidden", "link-loop", "broken-link"  # broken: to nothing, itself or forbidden folders
UNREADABLE, SPECIAL = "unreadable-folder", "special-file"  # special: a pipe, a socket, a device
_OF_SYSTEMS = frozenset((".DS_Store", "Thumbs.db", "desktop.ini"))  # written by file managers; not worth a count

Identity = tuple[int, int]  # of a folder or file: device and inode


@dataclass(frozen=True)
class WalkedFolder:
    """Paths of files, sorted, and the names (relative to the folder) that were skipped, by reason."""

    files: tuple[Path, ...]
    skipped: Mapping[str, list[str]]


def walk(root: Path) -> WalkedFolder:
    """The visible files below `root`. A folder that cannot be read for lack of permission is skipped; `root` itself,
    and any other failure of the file system, is a DataError. A link to a folder that contains the link is skipped.
    """
    files: list[Path] = []
    skipped = defaultdict[str, list[str]](list)
    waiting: list[tuple[Path, tuple[Identity, ...]]] = [(root, ())]
    while waiting:
        folder, above = waiting.pop()
        name = folder.relative_to(root).as_posix()
        try:
            own = identity(folder)
            if own in above:
                skipped[LOOP].append(name)
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = folder / entry.name
                    reason = _skip_reason(entry)
                    if entry.name in _OF_SYSTEMS or entry.name.startswith("._"):  # ._x.mp4 is macOS's, beside x.mp4
                        continue
                    if reason:
                        skipped[reason].append(path.relative_to(root).as_posix())
                    elif entry.is_dir():
                        waiting.append((path, (*above, own)))
                    else:
                        files.append(path)
        except OSError as error:
            if folder == root or not isinstance(error, PermissionError):
                raise DataError(f"{folder}: {error.strerror}") from error
            skipped[UNREADABLE].append(name)
    return WalkedFolder(tuple(sorted(files)), skipped)


def _skip_reason(entry: os.DirEntry[str]) -> str | None:
    """Why an entry is neither read nor entered; None if it is a visible folder or file, or a link to one."""
    if entry.name.startswith("."):
        return HIDDEN
    try:
        if entry.is_dir() or entry.is_file():
            return None
    except OSError:
        if not entry.is_symlink():
            raise
    return BROKEN_LINK if entry.is_symlink() else SPECIAL


def identity(path: Path) -> Identity:
    """Equal for two names of one folder or file. Raises OSError."""
    status = path.stat()
    return status.st_dev, status.st_ino
