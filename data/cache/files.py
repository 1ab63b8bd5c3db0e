"""Files that are either complete or absent, and the JSON documents of a cache."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import socket
import stat
import sys
import uuid
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import psutil

from tokenreel.errors import CacheError

MAX_JSON_BYTES = 1 << 30  # a plan of a few million videos; a larger file is hostile or a mistake
PIECE_BYTES = 1 << 20
PARTIAL = ".partial"  # suffix of a file that is being written


def durable_put(path: Path, data: bytes) -> None:
    """Writes `data` to `path` so that it survives a power loss, or leaves `path` unchanged.

    Temporary name in the same folder, flush, rename, flush of the folder; zarr's own store omits both flushes. Raises
    CacheError if the disk is full or the folder cannot be written.
    """
    temporary = _partial(path)
    try:
        _write_flushed(temporary, data)
        temporary.replace(path)
        flush(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> CacheError:
    """The error for a full disk, a read-only folder and the like."""
    return CacheError(
        f"{path} cannot be written: {error.strerror}. Committed shards are kept: "
        "free disk space or make the folder writable, and run the same command again"
    )


def cannot_read(path: Path, error: OSError) -> CacheError:
    """The error for a file that exists and may well be intact: no permission, too many open files, a failing disk."""
    advice = "; raise the limit (`ulimit -n`)" if error.errno in (errno.EMFILE, errno.ENFILE) else ""
    return CacheError(f"{path} cannot be read: {error.strerror}{advice}")


def file_size(path: Path) -> int | None:
    """The size of a regular file; None where there is none. Raises CacheError if that cannot be determined."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise cannot_read(path, error) from error
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def file_sha256(file: BufferedReader) -> str:
    """Hex sha256 of an open file. It is read, not mapped, so that its pages do not count as this process's memory."""
    return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """An empty folder next to `path`, to be renamed to it when it is complete; removed at the end if it was not.

    Those that killed processes of this machine left for `path` are removed too.
    """
    _remove_dead(path.parent.glob(f".{glob.escape(path.name)}~{socket.gethostname()}~*{PARTIAL}"))
    staging = _partial(path)
    try:
        staging.mkdir(parents=True)
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def sweep_partials(folder: Path) -> None:
    """Removes partial files of killed writers of this machine; those of running writers and other machines remain."""
    _remove_dead(folder.rglob(f".*~{socket.gethostname()}~*{PARTIAL}"))


def _partial(path: Path) -> Path:
    """A name in the same folder that says whose it is."""
    return path.with_name(f".{path.name}~{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex[:8]}{PARTIAL}")


def _remove_dead(partials: Iterable[Path]) -> None:
    for partial in list(partials):
        process = partial.name.split("~")[-2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


def _write_flushed(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush(path: Path) -> None:
    """fsyncs a file or a folder; only then is a rename in the folder durable. Windows opens no folder as a file."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def readable_json(document: Any) -> bytes:
    """An indented JSON document, as deterministic as `canonical_json`."""
    return json.dumps(document, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises CacheError, naming the file, if it is missing, too large or anything else."""
    return parse_json(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """The content of a file of bounded size. Raises CacheError, naming it, if it is missing or too large."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise CacheError(f"{path} has {size} bytes; files of this kind have at most {MAX_JSON_BYTES}")
        with path.open("rb") as file:
            return b"".join(_text_pieces(path, file))
    except OSError as error:
        raise cannot_read(path, error) from error


def _text_pieces(path: Path, file: BufferedReader) -> Iterator[bytes]:
    """Raises CacheError at the first NUL byte, as in a hole, which is of any size and takes no space."""
    while piece := file.read(PIECE_BYTES):
        if b"\0" in piece:
            raise CacheError(f"{path} is damaged: it contains NUL bytes, which no document does")
        yield piece


def parse_json(path: Path, text: bytes) -> dict[str, Any]:
    """The JSON object in `text`, read from `path`. Raises CacheError, naming the file, if it is anything else."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise CacheError(f"{path} is damaged: expected a JSON object, got {type(document).__name__}")
    return document
