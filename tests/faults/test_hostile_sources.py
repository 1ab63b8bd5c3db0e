"""Files of a few hundred bytes that claim gigabytes: refused before anything of that size is made."""

from __future__ import annotations

import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenreel.benchmarks.reliability.hostile_files import (
    HUGE,
    hdf5_never_written,
    hdf5_of_huge_chunks,
    hdf5_of_linked_groups,
    hdf5_of_long_labels,
    hdf5_of_many_labels,
    hdf5_of_many_videos,
    hdf5_partly_written,
    hdf5_without_values,
    hole,
    npy_of,
    npy_with_long_header,
    npz_of,
    npz_of_a_large_array,
    npz_of_another_compression,
    npz_of_long_labels,
    npz_with_a_forged_directory,
    npz_with_long_header,
    tar_with_long_header,
)
from tokenreel.data.sources.open import open_source
from tokenreel.errors import DataError


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (npy_of(HUGE), "for which the file is too small"),
        (npy_of((2**62, 2**62, 5, 3)), "for which the file is too small"),
        (npy_of((10**10, 0, 5, 7, 3)), "claims 10000000000 videos"),
        (npy_of((-2, -2, 5, 7, 3)), "claims the shape"),
        (npy_with_long_header, r"not an \.npy file"),
        (npz_of(HUGE), "for which the file is too small"),
        (npz_of((10**10, 0, 5, 7, 3)), "claims 10000000000 videos"),
        (npz_of((10**10,), "<U99", "labels"), "for which the file is too small"),
        (npz_with_a_forged_directory, "for which the file is too small"),
        (npz_with_long_header, r"not an \.npz file"),
        (npz_of_a_large_array, r"array 'data' has 1\.2 GiB.*save it with np\.save"),
        (npz_of_another_compression, "is compressed otherwise"),
        (hdf5_never_written, "7000 of 7000 chunks of dataset /data were never written"),
        (hdf5_without_values, "all values of dataset /data were never written"),
        (hdf5_of_many_videos, "claims 10000000000 videos"),
        (hdf5_partly_written, "4 of 7 chunks of dataset /data were never written"),
        (hdf5_of_huge_chunks, "which are read as a whole"),
        (hdf5_of_many_labels, r"'labels' has the shape \[10000000000\], but there are 2 videos"),
        (npz_of_long_labels, "'labels' claims names of 419,430,400 bytes"),
        (hdf5_of_long_labels, "'labels' claims names of 2,147,483,647 bytes"),
        (hdf5_of_linked_groups, "another name of an object"),
        (tar_with_long_header(tarfile.XHDTYPE), "a header of 5368709120 bytes at byte 512"),
        (tar_with_long_header(tarfile.GNUTYPE_LONGNAME), "a header of 5368709120 bytes"),
    ],
)
def test_a_header_is_compared_with_the_file(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    write(tmp_path / "a")
    (path,) = tmp_path.iterdir()
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            open_source(str(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50 << 20


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_line_of_any_length_is_not_read_whole(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.mp4").write_bytes(b"anything")
    hole(tmp_path / name, b"file_name,label\n")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"{name}.*(a line has more than 4,194,304 characters|line 1: not JSON)"):
            open_source(str(tmp_path))
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


def test_a_table_of_one_endless_line_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"anything")
    hole(tmp_path / "states.csv")
    tracemalloc.start()
    try:
        assert [entry.id for entry in open_source(str(tmp_path)).entries] == ["a.mp4"]
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
