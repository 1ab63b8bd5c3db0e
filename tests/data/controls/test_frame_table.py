"""Tables of numbers for each frame: values are read as written, and missing ones are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tokenreel.data.controls.frame_table import FrameTables, is_frame_table, read_table
from tokenreel.errors import DataError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_each_video_has_its_rows_in_the_order_of_its_frames(tmp_path: Path) -> None:
    write(tmp_path / "states.csv", "file_name,frame,x,y\na.mp4,1,3,4\na.mp4,0,1,2\nb.mp4,0,5,6\n")
    write(tmp_path / "deep/states.csv", "file_name,frame,x,y\na.mp4,0,7,8\n")
    write(tmp_path / ".hidden/states.csv", "file_name,frame,x,y\na.mp4,0,9,9\n")
    tables = FrameTables(tmp_path)
    assert tables.columns("states.csv") == ("x", "y")
    np.testing.assert_array_equal(tables.numbers("a.mp4", "states.csv", ("x", "y")), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(tables.numbers("deep/a.mp4", "states.csv", ("y", "x")), [[8, 7]])
    with pytest.raises(DataError, match=r"c\.mp4: states\.csv has no row for it; did you mean"):
        tables.numbers("c.mp4", "states.csv", ("x",))
    with pytest.raises(DataError, match=r"no column 'z'.*known: x, y"):
        tables.numbers("a.mp4", "states.csv", ("z",))


def test_a_text_column_that_is_not_requested_is_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "file_name,frame,who,taken\na.mp4,0,arm,2\n")
    np.testing.assert_array_equal(read_table(path, ("taken",)), [[2]])
    with pytest.raises(DataError, match=r"line 2: who \(='arm'\) is not a number"):
        read_table(path, ("who",))


def test_headers_with_spaces_and_capitals_are_read(tmp_path: Path) -> None:
    """As in metadata.csv; the names of the numbers keep their case."""
    write(tmp_path / "states.csv", "File_Name, Frame , X,x\na.mp4,1,3,4\na.mp4,0,1,2\n")
    tables = FrameTables(tmp_path)
    assert tables.columns("states.csv") == ("X", "x")
    np.testing.assert_array_equal(tables.numbers("a.mp4", "states.csv", ("x", "X")), [[2, 1], [4, 3]])
    assert is_frame_table(tmp_path / "states.csv")
    with pytest.raises(DataError, match="its columns are frame, x, frame; expected frame and at least one more, each"):
        read_table(write(tmp_path / "t.csv", "frame,x, Frame\n0,1,0\n"), ("x",))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0,1\n2,1\n", r"no row for frame 1, but 2 rows, up to frame 2"),
        ("1,1\n", r"no row for frame 0"),
        ("", r"no row for frame 0, but 0 rows"),
        ("0,1\n0,2\n", r"line 3: frame 0 appears twice"),
        ("0.5,1\n", r"line 2: frame \(='0\.5'\) is not a frame number"),
        ("-1,1\n", r"line 2: frame \(='-1'\) is not a frame number"),
        ("0,nan\n", r"line 2: x \(='nan'\) is not a number"),
        ("0\n", r"line 2: x \(=None\) is not a number"),
    ],
)
def test_an_invalid_line_is_named(tmp_path: Path, lines: str, message: str) -> None:
    path = write(tmp_path / "t.csv", f"frame,x\n{lines}")
    with pytest.raises(DataError, match=message):
        read_table(path, ("x",))


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"contains no states\.csv: write one with the columns file_name, frame"):
        FrameTables(tmp_path).columns("states.csv")
    with pytest.raises(DataError, match="leads out of the folder"):
        FrameTables(tmp_path).columns("../states.csv")
    with pytest.raises(DataError, match="its columns are a, b; expected frame and at least one more"):
        read_table(write(tmp_path / "t.csv", "a,b\n1,2\n"), ("b",))
    (tmp_path / "t.csv").write_bytes(b"frame,x\n0,\xff\n")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_table(tmp_path / "t.csv", ("x",))
    with pytest.raises(DataError, match=r"gone\.csv cannot be read"):
        read_table(tmp_path / "gone.csv", ("x",))
