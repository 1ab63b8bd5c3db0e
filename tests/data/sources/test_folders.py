"""Folders of videos and of frames, single videos, and messages where there are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numbered_videos import HEIGHT, WIDTH, numbered_frames, numbers_of, write_numbered
from PIL import Image

from tokenreel.data.sources.base import VideoEntry
from tokenreel.data.sources.open import open_source
from tokenreel.data.spec import Framing
from tokenreel.data.video.probe import DecodeFailure, resample_indices
from tokenreel.errors import DataError

AS_IS = Framing(HEIGHT, WIDTH)


def video(path: Path, count: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_numbered(path, count, b_frames=0)


def write_images(folder: Path, count: int, name: str = "frame{}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(numbered_frames(count)):
        Image.fromarray(frame).save(folder / name.format(number))


def test_class_folders_and_splits_are_read(tmp_path: Path) -> None:
    for name in ("train/run/b.mp4", "train/jump/a.mp4", "test/run/c.mp4"):
        video(tmp_path / name)
    (tmp_path / "train/run/._b.mp4").write_bytes(b"what macOS leaves")
    (tmp_path / "train/run/b.jpg").write_bytes(b"a thumbnail")
    source = open_source(str(tmp_path))
    assert source.entries == (
        VideoEntry("test/run/c.mp4", "run", "test"),
        VideoEntry("train/jump/a.mp4", "jump", "train"),
        VideoEntry("train/run/b.mp4", "run", "train"),
    )
    assert source.classes == ("jump", "run")


def test_a_class_called_test_is_not_a_split_next_to_other_classes(tmp_path: Path) -> None:
    for name in ("test/a.mp4", "jump/b.mp4"):
        video(tmp_path / name)
    assert [(entry.label, entry.split) for entry in open_source(str(tmp_path)).entries] == [
        ("jump", None),
        ("test", None),
    ]


def test_metadata_list_videos_and_labels(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "deep/c.mp4"):
        video(tmp_path / name)
    rows = [{"file_name": "deep/c.mp4", "label": 7, "split": "val"}, {"file_name": "a.mp4", "label": "jump"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    entries = (VideoEntry("a.mp4", "jump"), VideoEntry("deep/c.mp4", "7", "val"))
    assert open_source(str(tmp_path)).entries == entries
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,label,split\ndeep/c.mp4,7,val\na.mp4,jump,\n")
    assert open_source(str(tmp_path)).entries == entries
    (tmp_path / "metadata.csv").write_text("file_name,Group\ndeep/c.mp4, scene 3\na.mp4,scene 3\nb.mp4,\n")
    assert [entry.group for entry in open_source(str(tmp_path)).entries] == ["scene 3", None, "scene 3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"metadata\.csv has no rows, so it lists no video"),
        ("file_name\ngone.mp4\n", r"1 not-in-folder \(gone\.mp4\)"),
        ("file_name\n../a.mp4\n", r"leads out of the folder"),
        ("name\na.mp4\n", r"no file_name; columns: name"),
        ("file_name\na.mp4\na.mp4\n", r"line 3: a\.mp4 is listed twice"),
        ("file_name\n" + 200_000 * "a", r"metadata\.csv cannot be read as CSV: field larger"),
    ],
)
def test_invalid_metadata_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    video(tmp_path / "a.mp4")
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path))


def test_videos_that_only_the_metadata_list_are_counted(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4")
    names = ["a.mp4", *(f"gone{i}.mp4" for i in range(7))]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name", *names]))
    source = open_source(str(tmp_path))
    assert [entry.id for entry in source.entries] == ["a.mp4"]
    assert [(item.reason, item.count) for item in source.inventory.skipped] == [("not-in-folder", 7)]


def test_a_single_video_is_a_source(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 5)
    source = open_source(str(tmp_path / "a.mp4"))
    assert [entry.id for entry in source.entries] == ["a.mp4"]
    assert numbers_of(source.read(0, np.array([1, 4]), AS_IS)) == [1, 4]


@pytest.mark.parametrize("rate", [None, 5.0])
def test_folders_of_frames_are_videos_in_natural_order(tmp_path: Path, rate: float | None) -> None:
    write_images(tmp_path / "run" / "one", 13)
    write_images(tmp_path / "jump" / "two", 3)
    source = open_source(str(tmp_path) + (f"?fps={rate}" if rate else ""))
    assert source.entries == (VideoEntry("jump/two", "jump"), VideoEntry("run/one", "run"))
    indices = np.array([0, 2, 2, 9, 10, 12])
    assert numbers_of(source.read(1, indices, AS_IS)) == indices.tolist()
    times = source.probe(1).frame_times
    assert np.array_equal(times, np.arange(13) / (rate or np.nan), equal_nan=True)


def test_a_folder_of_frames_is_one_video(tmp_path: Path) -> None:
    write_images(tmp_path / "clip", 3, "{:04d}.jpg")
    source = open_source(str(tmp_path / "clip"))
    assert [entry.id for entry in source.entries] == ["clip"]
    assert numbers_of(source.read(0, np.arange(3), AS_IS)) == [0, 1, 2]


def test_a_folder_of_frames_has_its_own_tables_only(tmp_path: Path) -> None:
    for name, row in (("clip", ".,0,0.5"), ("a-neighbour", "none,0,7")):
        write_images(tmp_path / name, 1)
        (tmp_path / name / "states.csv").write_text(f"file_name,frame,{name}\n{row}\n")
    source = open_source(str(tmp_path / "clip"))
    assert source.columns("states.csv") == ("clip",)
    assert source.numbers(0, "states.csv", ("clip",)).tolist() == [[0.5]]


def test_a_damaged_image_is_a_failure_of_its_frames_only(tmp_path: Path) -> None:
    write_images(tmp_path / "clip", 5)
    data = (tmp_path / "clip" / "frame3.png").read_bytes()
    (tmp_path / "clip" / "frame3.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "clip" / "frame4.png").write_bytes(b"no picture")
    source = open_source(str(tmp_path))
    assert numbers_of(source.read(0, np.arange(3), AS_IS)) == [0, 1, 2]
    for frame, reason in [(3, "corrupt"), (4, "unreadable")]:
        with pytest.raises(DecodeFailure, match=f"{reason}.*frame{frame}"):
            source.read(0, np.array([frame]), AS_IS)


def test_an_error_for_a_folder_without_videos_says_what_it_contains(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an empty folder; expected videos"):
        open_source(str(tmp_path))
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text("words")
    with pytest.raises(DataError, match=r"no videos among its files \(2 x \.txt, 1 x \.md\)"):
        open_source(str(tmp_path))
    with pytest.raises(DataError, match=r"unknown kind"):
        open_source(str(tmp_path / "a.txt"))
    with pytest.raises(DataError, match=r"no such file or folder; did you mean 'a\.txt'"):
        open_source(str(tmp_path / "aa.txt"))


@pytest.mark.parametrize("options", ["fps=0", "fps=x", "rate=3", "fps=3&fps=4", ""])
def test_options_of_a_path_are_checked(tmp_path: Path, options: str) -> None:
    write_images(tmp_path / "clip", 3)
    with pytest.raises(DataError):
        open_source(f"{tmp_path}?{options}")


def test_tabletop_has_labels_and_times() -> None:
    location = "tabletop:?videos=7&seed=3&frames=11&size=24"
    source = open_source(location)
    assert len(source.entries) == 7
    assert {entry.label for entry in source.entries} <= set(source.classes)
    probe = source.probe(5)
    assert (probe.frames, probe.height, probe.width) == (11, 24, 24)
    assert len(resample_indices(probe, 5.0)) == 6
    frames = source.read(5, np.array([0, 10]), Framing(24, 24))
    assert np.array_equal(frames, open_source(location).read(5, np.array([0, 10]), Framing(24, 24)))
    assert not np.array_equal(frames[0], frames[1])
