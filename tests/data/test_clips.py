"""Clips by row: the right ones in any order within the memory limit; replacements for clips that fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numbered_videos import HEIGHT, WIDTH, numbers_of, write_numbered

from tokenreel.data.clips import ClipReader
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import make_plan
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.spec import Framing
from tokenreel.errors import DataError

FRAMES = 5
CLIP_GB = FRAMES * HEIGHT * WIDTH * 3 / 2**30


def reader_of(pool: DecodePool, clips: float) -> ClipReader:
    config = DataConfig(Framing(HEIGHT, WIDTH), FRAMES, clip_stride=3, validation=0.0)
    plan = make_plan(pool.source, config, pool.probe(range(len(pool.source.entries))))
    return ClipReader(plan, pool, clips * CLIP_GB)


def damage(path: Path) -> None:
    """Damages the last third; the header stays intact, so that a plan can be made."""
    data = bytearray(path.read_bytes())
    start = len(data) * 2 // 3
    data[start:] = np.random.default_rng(0).bytes(len(data) - start)
    path.write_bytes(data)


def write_one_damaged_of_two(folder: Path) -> None:
    """The last frames of a.mp4 do not decode; b.mp4 is intact."""
    write_numbered(folder / "a.mp4", 200, b_frames=0, options={"g": "200", "sc_threshold": "0"})
    write_numbered(folder / "b.mp4", 200)
    data = bytearray((folder / "a.mp4").read_bytes())
    data[-2000:] = np.random.default_rng(0).bytes(2000)
    (folder / "a.mp4").write_bytes(data)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("capacity", [1, 4, 1000])
def test_any_order_gives_the_requested_rows(tmp_path: Path, workers: int, capacity: int) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_numbered(tmp_path / name, 31)
    with DecodePool(str(tmp_path), workers) as pool:
        reader = reader_of(pool, capacity)
        order = [*np.random.default_rng(0).permutation(len(reader.plan)).tolist(), 0, 0, 3]
        for start in range(0, len(order), 3):
            rows = np.array(order[start : start + 3])
            reader.prefetch(np.array(order[start + 3 : start + 9], dtype=int))
            clips = reader.read(rows)
            assert [numbers_of(clip) for clip in clips] == [reader.plan.indices(row).tolist() for row in rows]
            assert len(reader._clips) + len(reader._in_flight) <= capacity + 3  # the rows of one read always fit


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_of_any_length_begin_at_any_frame(tmp_path: Path, workers: int) -> None:
    """Wherever the plan's clips begin, and beside them."""
    for name in ("a.mp4", "b.mp4"):
        write_numbered(tmp_path / name, 31)
    with DecodePool(str(tmp_path), workers) as pool:
        reader = reader_of(pool, 1000)
        assert reader.plan.starts(np.array([0]), 3).tolist() == [29]
        rows, firsts = np.array([0, 0, 11, 11]), np.array([28, 7, 0, 28])
        reader.prefetch(rows, firsts, 3)
        assert [numbers_of(clip) for clip in reader.read(rows, firsts, 3)] == [
            [first, first + 1, first + 2] for first in firsts
        ]
        own = reader.read(rows)
        assert [numbers_of(clip) for clip in own] == [reader.plan.indices(row).tolist() for row in rows]


def test_a_row_that_fails_at_one_start_is_read_at_others(tmp_path: Path) -> None:
    """What replaces a clip depends on it alone, so that a resumed run reads the same; its row is counted once."""
    write_one_damaged_of_two(tmp_path)
    with DecodePool(str(tmp_path), 0) as pool:
        reader = reader_of(pool, 1000)
        row = int(np.flatnonzero(reader.plan.video == 0)[-1])
        instead = reader.plan.indices(row + 1)[:2].tolist()
        found = reader.read(np.array([row] * 3), np.array([198, 3, 197]), 2)
        assert [numbers_of(clip) for clip in found] == [instead, [3, 4], instead]
        assert list(reader.failures) == [row]


def test_a_clip_that_does_not_decode_is_replaced_by_the_next(tmp_path: Path) -> None:
    write_one_damaged_of_two(tmp_path)
    with DecodePool(str(tmp_path), 0) as pool:
        reader = reader_of(pool, 1000)
        last = int(np.flatnonzero(reader.plan.video == 0)[-1])
        (clip,) = reader.read(np.array([last]))
        assert numbers_of(clip) == [0, 1, 2, 3, 4]  # the first clip of b.mp4
        assert reader.failures[last].reason == "corrupt"
        assert np.array_equal(reader.read(np.array([last]))[0], clip)


def test_many_clips_that_do_not_decode_are_an_error(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_numbered(tmp_path / name, 31)
        damage(tmp_path / name)
    with DecodePool(str(tmp_path), 0) as pool:
        reader = reader_of(pool, 1000)
        with pytest.raises(DataError, match=r"a\.mp4: corrupt.*do not decode"):
            reader.read(reader.plan.rows())
