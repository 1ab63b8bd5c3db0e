"""Which videos of a folder are taken, what is skipped and why, and the splits and classes that a data set states."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
import pytest
from bair_records import record
from numbered_videos import HEIGHT, WIDTH, numbers_of, write_numbered
from PIL import Image

from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.open import open_source
from tokenreel.data.spec import Framing
from tokenreel.errors import DataError

AS_IS = Framing(HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    write_numbered(path, 3, b_frames=0)
    return path.read_bytes()


def write(folder: Path, content: bytes, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def stated(source: VideoSource) -> dict[str, tuple[str | None, str | None]]:
    """id -> (split, label)"""
    return {entry.id: (entry.split, entry.label) for entry in source.entries}


def skipped(source: VideoSource) -> dict[str, int]:
    return {item.reason: item.count for item in source.inventory.skipped}


@pytest.mark.parametrize(
    ("names", "expected", "outside"),
    [
        (  # what lies beside training and held-out folders is outside
            ("train/run/a.mp4", "val/b.mp4", "replacement/run/c.mp4", "intro.mp4"),
            {"train/run/a.mp4": ("train", "run"), "val/b.mp4": ("val", None)},
            2,
        ),
        (  # data one folder higher
            ("set/train/run/a.mp4", "set/Test/run/b.mp4", "set/extra/c.mp4"),
            {"set/train/run/a.mp4": ("train", "run"), "set/Test/run/b.mp4": ("Test", "run")},
            1,
        ),
        (  # splits within classes
            ("run/train/a.mp4", "run/test/b.mp4", "jump/train/c.mp4", "jump/more/d.mp4"),
            {
                "run/train/a.mp4": ("train", "run"),
                "run/test/b.mp4": ("test", "run"),
                "jump/train/c.mp4": ("train", "jump"),
            },
            1,
        ),
        (  # without a training folder, videos beside the others are data as well
            ("validation/a.mp4", "b.mp4", "c.mp4"),
            {"validation/a.mp4": ("validation", None), "b.mp4": (None, None), "c.mp4": (None, None)},
            0,
        ),
        (  # a class with a split's name is a class beside other classes
            ("test/a.mp4", "jump/b.mp4", "c.mp4"),
            {"test/a.mp4": (None, "test"), "jump/b.mp4": (None, "jump"), "c.mp4": (None, None)},
            0,
        ),
        (  # words in the names of all folders
            ("set/train_256/run/a.mp4", "set/val_256/run/b.mp4", "intro.mp4"),
            {"set/train_256/run/a.mp4": ("train", "run"), "set/val_256/run/b.mp4": ("val", "run")},
            1,
        ),
        (
            ("run/bair-train-1/a.mp4", "run/bair-train-2/b.mp4", "jump/bair-Test/c.mp4"),
            {
                "run/bair-train-1/a.mp4": ("train", "run"),
                "run/bair-train-2/b.mp4": ("train", "run"),
                "jump/bair-Test/c.mp4": ("Test", "jump"),
            },
            0,
        ),
        (
            ("training/a.mp4", "eval/b.mp4", "holdout/c.mp4", "replacement/d.mp4"),
            {"training/a.mp4": ("training", None), "eval/b.mp4": ("eval", None), "holdout/c.mp4": ("holdout", None)},
            1,
        ),
    ],
)
def test_folders_state_splits_and_classes(
    clip: bytes, tmp_path: Path, names: tuple[str, ...], expected: dict[str, Any], outside: int
) -> None:
    write(tmp_path, clip, *names)
    source = open_source(str(tmp_path))
    assert stated(source) == expected
    assert skipped(source) == ({"outside-splits": outside} if outside else {})


@pytest.mark.parametrize(
    ("folders", "doubtful"),
    [
        (("bullet_train", "test_tube"), ("bullet_train", "test_tube")),
        (("train_256", "val_256", "jump"), ("train_256", "val_256")),
        (("train_1", "train_2"), ("train_1", "train_2")),
        (("train_or_test", "train_val"), ()),
        (("training dog", "jump"), ("training dog",)),
        (("pretrained", "valley"), ()),
    ],
)
def test_a_word_for_a_split_among_names_of_classes_states_none_and_is_said(
    clip: bytes, tmp_path: Path, folders: tuple[str, ...], doubtful: tuple[str, ...]
) -> None:
    write(tmp_path, clip, *(f"{folder}/a.mp4" for folder in folders))
    source = open_source(str(tmp_path))
    assert stated(source) == {f"{folder}/a.mp4": (None, folder) for folder in folders}
    assert source.inventory.classes_like_splits == doubtful
    assert source.inventory.to_json(len(folders)).get("classes_like_splits", []) == list(doubtful)


def test_splits_of_tfrecords_tar_shards_and_arrays_hold_too(clip: bytes, tmp_path: Path) -> None:
    records = record(np.zeros((2, 64, 64, 3), np.uint8))
    write(tmp_path / "bair", records, "robot/train/a.tfrecords", "robot/test/b.tfrecords", "robot/c.tfrecords")
    assert stated(open_source(str(tmp_path / "bair"))) == {
        "robot/train/a/0000": ("train", None),
        "robot/test/b/0000": ("test", None),
    }
    for name in ("train/a", "val/b", "old/c"):
        (tmp_path / "tar" / name).parent.mkdir(parents=True)
        write(tmp_path / "members", clip, "x.mp4", "y.txt")
        with tarfile.open(tmp_path / "tar" / f"{name}.tar", "w") as shard:
            for member in ("x.mp4", "y.txt"):
                shard.add(tmp_path / "members" / member, member)
    shards = open_source(str(tmp_path / "tar"))
    assert stated(shards) == {"a/x": ("train", None), "b/x": ("val", None)}
    assert skipped(shards) == {"outside-splits": 1, "sample-without-video": 2}
    stack = np.zeros((2, 3, 4, 5, 3), np.uint8)
    np.savez(tmp_path / "a.npz", train=stack, test=stack[:1], actions=np.zeros(7))
    arrays = open_source(str(tmp_path / "a.npz"))
    assert [(e.id, e.split) for e in arrays.entries] == [("test/0", "test"), ("train/0", "train"), ("train/1", "train")]
    assert skipped(arrays) == {"array-without-videos": 1}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/x"], file["test/x"], file["actions"] = stack, stack, np.zeros(7)
    assert {entry.split for entry in open_source(str(tmp_path / "a.h5")).entries} == {"train", "test"}
    assert skipped(open_source(str(tmp_path / "a.h5"))) == {"array-without-videos": 1}


def test_splits_in_the_names_of_shards_and_arrays_hold(clip: bytes, tmp_path: Path) -> None:
    """If they name training and another split; a word in one name alone states nothing."""
    (tmp_path / "x.mp4").write_bytes(clip)
    for name in ("set-train-0", "set-train-1", "set_val-0", "set-other"):
        (tmp_path / "all").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "all" / f"{name}.tar", "w") as shard:
            shard.add(tmp_path / "x.mp4", "x.mp4")
    expected = {"set-train-0/x": ("train", None), "set-train-1/x": ("train", None), "set_val-0/x": ("val", None)}
    folder = open_source(str(tmp_path / "all"))
    assert (stated(folder), skipped(folder)) == (expected, {"outside-splits": 1})
    assert stated(open_source(f"{tmp_path}/all/{{set-train-0,set-train-1,set_val-0}}.tar")) == expected
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        shutil.copy(tmp_path / "all/set-other.tar", tmp_path / split / f"{split[1]}.tar")
    assert {split for split, _ in stated(open_source(f"{tmp_path}/{{train/r,test/e}}.tar")).values()} == {
        "train",
        "test",
    }
    with pytest.raises(DataError, match="a shard appears twice"):
        open_source(f"{tmp_path}/train/r.tar::{tmp_path}/train/r.tar")
    assert stated(open_source(str(tmp_path / "all/set_val-0.tar"))) == {"set_val-0/x": (None, None)}
    stack = np.zeros((1, 3, 4, 5, 3), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=stack, x_test=stack)
    assert stated(open_source(str(tmp_path / "a.npz"))) == {"x_train/0": ("train", None), "x_test/0": ("test", None)}
    np.savez(tmp_path / "b.npz", pretrained=stack, test=stack[0])
    assert {split for split, _ in stated(open_source(str(tmp_path / "b.npz"))).values()} == {None}


def test_headers_with_spaces_and_capitals_are_read(clip: bytes, tmp_path: Path) -> None:
    write(tmp_path, clip, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "metadata.csv").write_text("File_Name, label , SPLIT,caption\na.mp4, jump, val,x\n b.mp4,run,train,y\n")
    source = open_source(str(tmp_path))
    assert stated(source) == {"a.mp4": ("val", "jump"), "b.mp4": ("train", "run")}
    assert skipped(source) == {"not-in-metadata": 1}
    assert source.inventory.unread_columns == ("caption",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\n", r"metadata\.csv has no rows, so it lists no video"),
        ("file_name,label,Label\na.mp4,x,y\n", "two columns named 'label'"),
        ("file_name,label\na.mp4,jump, high\n", r"line 2: it has more values than columns; quote"),
    ],
)
def test_ambiguous_metadata_are_refused(clip: bytes, tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, clip, "a.mp4")
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path))


def test_links_to_folders_are_followed_and_loops_are_counted(clip: bytes, tmp_path: Path) -> None:
    write(tmp_path, clip, "elsewhere/a.mp4", "data/run/b.mp4")
    (tmp_path / "elsewhere/states.csv").write_text("file_name,frame,x\na.mp4,0,0.5\n")
    (tmp_path / "data/jump").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data/run/up").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data/gone.mp4").symlink_to(tmp_path / "nothing")
    (tmp_path / "data/itself").symlink_to("itself")
    source = open_source(str(tmp_path / "data"))
    assert stated(source) == {"jump/a.mp4": (None, "jump"), "run/b.mp4": (None, "run")}
    assert skipped(source) == {"broken-link": 2, "link-loop": 1}
    assert source.numbers(0, "states.csv", ("x",)).tolist() == [[0.5]]


def test_one_file_under_several_names_is_taken_once(clip: bytes, tmp_path: Path) -> None:
    """Else it would be trained on under one name and held out under the other."""
    write(tmp_path, clip, "videos/run/a.mp4", "videos/run/z.mp4")
    (tmp_path / "videos/run/again").symlink_to(tmp_path / "videos/run/deep", target_is_directory=True)
    write(tmp_path, clip, "videos/run/deep/b.mp4")
    (tmp_path / "videos/run/c.mp4").symlink_to("a.mp4")
    os.link(tmp_path / "videos/run/a.mp4", tmp_path / "videos/run/d.mp4")
    source = open_source(str(tmp_path / "videos"))
    assert list(stated(source)) == ["run/a.mp4", "run/again/b.mp4", "run/z.mp4"]
    (same,) = source.inventory.skipped
    assert (same.reason, same.count) == ("same-file", 3)
    assert same.examples == (
        "run/c.mp4 is run/a.mp4",
        "run/d.mp4 is run/a.mp4",
        "run/deep/b.mp4 is run/again/b.mp4",
    )
    (tmp_path / "videos/metadata.csv").write_text("file_name,label\nrun/d.mp4,jump\nrun/z.mp4,run\n")
    assert stated(open_source(str(tmp_path / "videos"))) == {"run/d.mp4": (None, "jump"), "run/z.mp4": (None, "run")}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train", "val"), "train/a.mp4 and val/a.mp4 are the same file, but the split of one is train and"),
        (("train/x", "train/y"), "train/x/a.mp4 and train/y/a.mp4 are the same file, but the label of one is x and"),
        (("x", "y"), "x/a.mp4 and y/a.mp4 are the same file, but the label of one is x and that of the other y"),
    ],
)
def test_one_file_in_two_splits_or_classes_is_refused(
    clip: bytes, tmp_path: Path, names: tuple[str, str], message: str
) -> None:
    write(tmp_path, clip, "videos/a.mp4", "data/test/b.mp4")
    for name in names:
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(tmp_path / "videos", target_is_directory=True)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path / "data"))


def test_linked_folders_of_frames_pictures_shards_and_records_are_taken_once(clip: bytes, tmp_path: Path) -> None:
    for name in ("a", "c"):
        (tmp_path / "frames" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "frames" / name / f"{number}.png")
    (tmp_path / "frames/b").symlink_to("a", target_is_directory=True)
    (tmp_path / "frames/c/0.png").unlink()
    os.link(tmp_path / "frames/a/0.png", tmp_path / "frames/c/0.png")  # one black picture of two videos
    pictures = [Image.new("RGB", (8, 8), (number, 0, 0)) for number in range(3)]
    (tmp_path / "animations").mkdir()
    pictures[0].save(tmp_path / "animations/a.webp", save_all=True, append_images=pictures[1:], lossless=True)
    (tmp_path / "animations/b.webp").symlink_to("a.webp")
    write(tmp_path / "tar", clip, "x.mp4")
    with tarfile.open(tmp_path / "tar/a.tar", "w") as shard:
        shard.add(tmp_path / "tar/x.mp4", "x.mp4")
    (tmp_path / "tar/x.mp4").unlink()
    (tmp_path / "tar/b.tar").symlink_to("a.tar")
    write(tmp_path / "bair", record(np.zeros((2, 64, 64, 3), np.uint8)), "a.tfrecords")
    os.link(tmp_path / "bair/a.tfrecords", tmp_path / "bair/b.tfrecords")
    for name, expected in (
        ("frames", ["a", "c"]),
        ("animations", ["a.webp"]),
        ("tar", ["a/x"]),
        ("tar/{a,b}.tar", ["a/x"]),
        ("bair", ["a/0000"]),
    ):
        source = open_source(f"{tmp_path}/{name}")
        assert (list(stated(source)), skipped(source)) == (expected, {"same-file": 1}), name
    (tmp_path / "tar/train").mkdir()
    (tmp_path / "tar/test").mkdir()
    (tmp_path / "tar/a.tar").rename(tmp_path / "tar/train/a.tar")
    os.link(tmp_path / "tar/train/a.tar", tmp_path / "tar/test/b.tar")
    with pytest.raises(
        DataError, match=r"test/b\.tar and train/a\.tar are the same file, but the split of one is test"
    ):
        open_source(str(tmp_path / "tar"))


def test_folders_without_permission_are_counted(clip: bytes, tmp_path: Path) -> None:
    """Not by chmod, which has no effect for root."""
    write(tmp_path, clip, "run/a.mp4", "jump/b.mp4")
    scandir = os.scandir

    def refused(path: Path) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "jump":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with patch.object(os, "scandir", refused):
        source = open_source(str(tmp_path))
        assert (list(stated(source)), skipped(source)) == (["run/a.mp4"], {"unreadable-folder": 1})
        with pytest.raises(DataError, match="jump: Permission denied"):
            open_source(str(tmp_path / "jump"))


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        *(("mpg", "mpeg1video"), ("vob", "mpeg2video"), ("flv", "libx264"), ("flv", "flv"), ("wmv", "wmv2")),
        *(("asf", "msmpeg4"), ("3gp", "mpeg4"), ("m2ts", "libx264"), ("mts", "libx264")),
    ],
)
def test_containers_are_taken_by_content_whatever_their_suffix(tmp_path: Path, suffix: str, codec: str) -> None:
    write_numbered(tmp_path / f"a.{suffix}", 23, codec, b_frames=0)
    (tmp_path / f"a.{suffix}").rename(tmp_path / "A.DAT")
    (tmp_path / "b.dat").write_bytes(b"G" + bytes(100))
    source = open_source(str(tmp_path))
    assert (list(stated(source)), skipped(source)) == (["A.DAT"], {"unused .dat": 1})
    assert source.probe(0).frames == 23
    assert numbers_of(source.read(0, np.arange(23), AS_IS)) == [*range(23)]
    assert open_source(str(tmp_path / "A.DAT")).probe(0).frames == 23


def test_videos_and_folders_of_frames_are_not_chosen_from(clip: bytes, tmp_path: Path) -> None:
    write(tmp_path, clip, "preview.mp4")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{number}.png")
    with pytest.raises(DataError, match=r"1 and 2 of them: say which .*\?kind=videos or \?kind=frame-folders"):
        open_source(str(tmp_path))
    frames = open_source(f"{tmp_path}?kind=frame-folders&fps=5")
    assert (list(stated(frames)), skipped(frames)) == (["one", "two"], {"unused .mp4": 1})
    assert frames.probe(0).frame_rate == 5
    videos = open_source(f"{tmp_path}?kind=videos")
    assert (list(stated(videos)), skipped(videos)) == (["preview.mp4"], {"unused .png": 6})
    assert len(open_source("tabletop:?videos=3&kind=tabletop").entries) == 3
    with pytest.raises(DataError, match="kind 'video' is not known; did you mean 'videos'"):
        open_source(f"{tmp_path}?kind=video")


def test_all_that_is_not_used_is_counted(clip: bytes, tmp_path: Path) -> None:
    write(tmp_path, clip, "a.mp4", ".b.mp4", "._a.mp4")
    write(tmp_path, b"text", "a.txt", "deep/b.txt", "LICENSE", ".git/config", "Thumbs.db", "labels.csv")
    source = open_source(str(tmp_path))
    assert skipped(source) == {"hidden": 2, "unused .csv": 1, "unused .txt": 2, "unused without suffix": 1}
    assert source.inventory.to_json(taken=1)["found"] == 7
    (text,) = (item for item in source.inventory.skipped if item.reason == "unused .txt")
    assert text.examples == ("a.txt", "deep/b.txt")
