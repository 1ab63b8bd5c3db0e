"""Checks of the contract of `data/sources/base.py`, one function each, for any source of videos.

A test writes a source of at least two videos with known pixels, and calls `check_contract`; and `check_damage`, if the
source is in a folder without other files. `open_at` opens a location; only tests of the checks pass another function
than `open_source`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import numpy as np
import pytest

from tokenreel.data.decoding.pool import DecodePool, ReadRequest
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.open import open_source
from tokenreel.data.spec import Framing
from tokenreel.data.video.framing import frame_into
from tokenreel.data.video.probe import TIME_ROUNDING, DecodeFailure, VideoProbe
from tokenreel.errors import DataError

OpenAt = Callable[[str], VideoSource]
Videos = Mapping[str, np.ndarray]  # id -> uint8 [T, H, W, 3]


def check_contract(location: str, videos: Videos, frame_rate: float | None, open_at: OpenAt = open_source) -> None:
    """`location`, an absolute path or not a path, contains `videos`, at `frame_rate` or without times."""
    check_entries(location, open_at)
    check_inventory(location, open_at)
    check_probes_and_frames(location, videos, frame_rate, open_at)
    check_reading_in_any_order(location, open_at)
    check_impossible_requests(location, open_at)
    check_reopened_elsewhere(location, open_at)
    check_listing_order(location, open_at)


def check_entries(location: str, open_at: OpenAt = open_source) -> None:
    """Ids are sorted, unique and relative on every operating system, and the location is kept."""
    source = open_at(location)
    assert source.location == location, "another process could not open it again"
    ids = [entry.id for entry in source.entries]
    assert ids == sorted(set(ids)), f"ids are not sorted and unique: {ids}"
    for name in ids:
        assert name, "an id is empty"
        assert not name.startswith(("/", "\\")), f"id {name!r} is absolute"
        assert ".." not in name.split("/"), f"id {name!r} leaves the source"
        assert name[1:3] not in (":/", ":\\"), f"id {name!r} has a drive"
    assert source.classes == tuple(sorted({e.label for e in source.entries if e.label is not None}))


def check_inventory(location: str, open_at: OpenAt = open_source) -> None:
    """What was skipped is counted by reason, with a few names that lie within the source and can be written as JSON."""
    inventory = open_at(location).inventory
    reasons = [item.reason for item in inventory.skipped]
    assert reasons == sorted(set(reasons)), f"reasons are not sorted and unique: {reasons}"
    for item in inventory.skipped:
        assert 0 < len(item.examples) <= item.count, f"{item.reason}: {len(item.examples)} examples of {item.count}"
        assert list(item.examples) == sorted(item.examples), f"{item.reason}: examples are not sorted"
        assert not any(name.startswith(("/", "..")) for name in item.examples), f"{item.reason}: {item.examples}"
    json.dumps(inventory.to_json(taken=0)).encode()


def check_probes_and_frames(
    location: str, videos: Videos, frame_rate: float | None, open_at: OpenAt = open_source
) -> None:
    """Probed sizes and times, and every frame that is read, are as written."""
    source = open_at(location)
    assert [entry.id for entry in source.entries] == sorted(videos)
    for index, entry in enumerate(source.entries):
        expected = videos[entry.id]
        probe = source.probe(index)
        assert (probe.frames, probe.height, probe.width) == expected.shape[:3], f"{entry.id}: wrong size probed"
        times = np.full(len(expected), np.nan) if frame_rate is None else np.arange(len(expected)) / frame_rate
        np.testing.assert_allclose(probe.frame_times, times, rtol=0, atol=TIME_ROUNDING, err_msg=entry.id)
        np.testing.assert_array_equal(_read_all(source, index), expected, err_msg=f"{entry.id}: wrong pixels read")


def check_reading_in_any_order(location: str, open_at: OpenAt = open_source) -> None:
    """What is read before and after, of which video and at which size, changes no frame; other sizes are framed as
    `frame_into` frames them.
    """
    source = open_at(location)
    whole = [_read_all(open_at(location), index) for index in range(len(source.entries))]
    requests = [(index, np.array([frame])) for index, frames in enumerate(whole) for frame in range(len(frames))]
    requests += [(index, np.array([0, 0, len(frames) - 1])) for index, frames in enumerate(whole)]
    random.Random(0).shuffle(requests)
    results = []
    for index, indices in requests:
        height, width = whole[index].shape[1:3]
        for framing in (Framing(height + 1, 2 * width), Framing(height, width)):
            expected = [frame_into(framing, frame) for frame in whole[index][indices]]
            text = f"{source.entries[index].id}: frames {indices} in {framing.height} x {framing.width}"
            results.append((source.read(index, indices, framing), expected, text))
    for found, expected, text in results:  # only now, as a later read must not change what an earlier one returned
        np.testing.assert_array_equal(found, expected, err_msg=text)


def check_impossible_requests(location: str, open_at: OpenAt = open_source) -> None:
    """Missing frames are a DecodeFailure; invalid requests are a ValueError."""
    source = open_at(location)
    for index in range(len(source.entries)):
        probe = source.probe(index)
        framing = Framing(probe.height, probe.width)
        with pytest.raises(DecodeFailure, match="too-short"):
            source.read(index, np.array([0, probe.frames]), framing)
        for wrong in ([1, 0], [-1], [-1, 0], []):
            with pytest.raises(ValueError, match="indices") as raised:
                source.read(index, np.array(wrong, dtype=np.int64), framing)
            assert not isinstance(raised.value, DataError), "not the data, but the request is invalid"
    for read in (source.columns, lambda file: source.numbers(0, file, ("x",))):
        with pytest.raises(DataError):
            read("no-such-table.csv")


def check_reopened_elsewhere(location: str, open_at: OpenAt = open_source) -> None:
    """A path is the same source from the root, from its parent and from within, absolute or relative."""
    expected = open_at(location)
    path, separator, options = location.partition("?")
    for folder in (Path("/"), Path(path).parent, Path(path)):
        if Path(path).is_absolute() and folder.is_dir():
            relative = os.path.relpath(path, folder) + separator + options
            with contextlib.chdir(folder):
                _assert_same(open_at(location), expected, f"from {folder}")
                _assert_same(open_at(relative), expected, f"as {relative} from {folder}")


def check_listing_order(location: str, open_at: OpenAt = open_source) -> None:
    """The source does not depend on the order in which the file system lists files."""
    expected = open_at(location)
    for seed in range(3):
        with _shuffled_listing(seed):
            _assert_same(open_at(location), expected, f"listed in another order ({seed})")


def check_workers(location: str) -> None:
    """A decode worker, a new process, has the same videos, probes and frames."""
    source = open_source(location)
    with DecodePool(location, workers=1) as pool:
        for index, probe in enumerate(pool.probe(range(len(source.entries)))):
            expected = source.probe(index)
            assert isinstance(probe, VideoProbe), probe
            np.testing.assert_array_equal(probe.frame_times, expected.frame_times)
            for name in ("height", "width", "codec", "last_duration"):
                assert getattr(probe, name) == getattr(expected, name), name
            request = ReadRequest(index, np.arange(probe.frames), Framing(probe.height, probe.width))
            (result,) = pool.read([request], ahead=1)
            assert result.frames is not None, result.failure
            np.testing.assert_array_equal(result.frames, _read_all(source, index))


def check_damage(location: str, folder: Path, open_at: OpenAt = open_source) -> None:
    """If a file below `folder` is damaged, before or after opening, the result is frames or a DataError."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert files, f"{folder}: there is no file in it to damage"
    for file in files:
        whole = file.read_bytes()
        middle = len(whole) // 2
        damaged = (b"", whole[:middle], bytes(100) + whole[100:], whole[:middle] + bytes(100) + whole[middle + 100 :])
        refused = 0
        for content in damaged:
            file.unlink()  # not overwritten, as it may be mapped into memory
            file.write_bytes(content)
            refused += _is_refused(lambda: _read_everything(open_at(location)))
        assert refused, f"{file.name}: no damage was detected"
        file.unlink()
        file.write_bytes(whole)
        opened = open_at(location)
        file.unlink()
        _is_refused(partial(_read_everything, opened))
        file.write_bytes(whole)
        assert not _is_refused(lambda: _read_everything(open_at(location))), (
            f"{file.name}: refused after it was restored"
        )


def _is_refused(action: Callable[[], None]) -> bool:
    """Whether `action` raises DataError; other errors are not caught."""
    try:
        action()
    except DataError:
        return True
    return False


def _read_everything(source: VideoSource) -> None:
    for index in range(len(source.entries)):
        _read_all(source, index)


def _read_all(source: VideoSource, index: int) -> np.ndarray:
    probe = source.probe(index)
    return source.read(index, np.arange(probe.frames), Framing(probe.height, probe.width))


def _assert_same(source: VideoSource, expected: VideoSource, how: str) -> None:
    """Compares entries, digests and the last frame of each video."""
    assert source.entries == expected.entries, how
    assert source.digest == expected.digest, how
    assert source.inventory == expected.inventory, how
    for index in range(len(expected.entries)):
        probe = expected.probe(index)
        last = np.array([probe.frames - 1])
        frames, expected_frames = (s.read(index, last, Framing(probe.height, probe.width)) for s in (source, expected))
        np.testing.assert_array_equal(frames, expected_frames, err_msg=how)


@contextlib.contextmanager
def _shuffled_listing(seed: int) -> Iterator[None]:
    """os and pathlib list files in another order."""
    shuffle = random.Random(seed).shuffle

    def shuffled(listing: Callable[..., Any]) -> Callable[..., Any]:
        def listed(*arguments: object) -> _Listing:
            found = list(listing(*arguments))
            shuffle(found)
            return _Listing(found)

        return listed

    with contextlib.ExitStack() as patches:
        for owner, name in ((Path, "rglob"), (Path, "glob"), (Path, "iterdir"), (os, "scandir"), (os, "listdir")):
            patches.enter_context(patch.object(owner, name, shuffled(getattr(owner, name))))
        yield


class _Listing(list[Any]):
    """Like the result of `os.scandir`, also an iterator and a context manager."""

    def __next__(self) -> Any:
        if not self:
            raise StopIteration
        return self.pop(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
