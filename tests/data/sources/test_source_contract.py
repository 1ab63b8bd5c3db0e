"""The contract tests of every kind of source, and tests that they detect sources that violate it."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

import av
import h5py
import numpy as np
import pytest
from bair_records import record
from PIL import Image
from video_list import VideoList, open_video_list

from tokenreel.data.sources.base import VideoEntry
from tokenreel.data.sources.inventory import Inventory
from tokenreel.data.sources.open import SOURCES
from tokenreel.data.spec import Framing
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.data.video.probe import DecodeFailure, VideoProbe
from tokenreel.testing.sources import (
    check_contract,
    check_damage,
    check_entries,
    check_impossible_requests,
    check_inventory,
    check_listing_order,
    check_probes_and_frames,
    check_reading_in_any_order,
    check_reopened_elsewhere,
    check_workers,
)

T, H, W = 5, 7, 11
RATE = 5.0  # frames per second of the sources that have a rate

Videos = dict[str, np.ndarray]
Written = tuple[str, Videos, float | None]  # location, content, frames per second


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_lossless(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=24)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))


def write_videos(folder: Path, *names: str) -> Videos:
    """Writes videos of different lengths."""
    videos = {name: noise(seed, 2 + seed, H, W, 3) for seed, name in enumerate(names)}
    for name, frames in videos.items():
        write_lossless(folder / name, frames)
    return videos


def write_image_folders(folder: Path, *names: str) -> Videos:
    """Writes folders of frames of different sizes; names (10 before 9) are not in the order of their numbers."""
    videos = {name: noise(seed, 2 + seed, H + seed, W, 3) for seed, name in enumerate(names)}
    for name, frames in videos.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(frames, start=9):
            Image.fromarray(frame).save(folder / name / f"{number}.png")
    return videos


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def videos_in_folders(folder: Path) -> Written:
    return str(folder), write_videos(folder, "train/run/b.mkv", "train/jump/a.mkv", "test/run/c.mkv"), 24.0


def videos_with_metadata(folder: Path) -> Written:
    videos = write_videos(folder, "b.mkv", "deep/a.mkv")
    (folder / "metadata.csv").write_text("file_name,label,split\ndeep/a.mkv,7,val\nb.mkv,jump,\n")
    return str(folder), videos, 24.0


def videos_beside_other_files(folder: Path) -> Written:
    videos = write_videos(folder, "train/b.mkv", "val/a.mkv")
    write_videos(folder, "replacement/c.mkv", "d.mkv")
    for name in ("train/b.txt", "val/a.txt", "notes", ".hidden.mkv"):
        (folder / name).write_text(f"{name} is not a video")
    return str(folder), videos, 24.0


def one_video(folder: Path) -> Written:
    return str(folder / "a.mkv"), write_videos(folder, "a.mkv"), 24.0


def folders_of_frames(folder: Path) -> Written:
    return str(folder), write_image_folders(folder, "run/one", "jump/two"), None


def folders_of_frames_at_a_rate(folder: Path) -> Written:
    return f"{folder}?fps={RATE}", write_image_folders(folder, "b", "a"), RATE


def one_folder_of_frames(folder: Path) -> Written:
    return str(folder / "clip"), write_image_folders(folder, "clip"), None


def animations(folder: Path) -> Written:
    videos = {}
    for seed, name in enumerate(("run/b.webp", "run/a.png", "jump/c.webp")):
        frames = videos[name] = noise(seed, 2 + seed, H + seed, W, 3)
        (folder / name).parent.mkdir(exist_ok=True)
        first, *others = map(Image.fromarray, frames)
        options = {"lossless": True} if name.endswith("webp") else {}
        first.save(folder / name, save_all=True, append_images=others, duration=1000 / RATE, **options)
    return str(folder), videos, RATE


def folder_of_tar_shards(folder: Path) -> Written:
    videos = {}
    for shard in ("s-0", "deep/s-1"):
        found = write_videos(folder / "made", "b.mkv", "d/a.mkv")
        (folder / shard).parent.mkdir(exist_ok=True)
        members = {name: (folder / "made" / name).read_bytes() for name in found}
        write_tar(folder / f"{shard}.tar", dict(sorted({**members, "b.cls": b"run"}.items())))
        videos |= {f"{Path(shard).name}/{name.removesuffix('.mkv')}": frames for name, frames in found.items()}
    shutil.rmtree(folder / "made")
    return str(folder), videos, 24.0


def range_of_tar_shards(folder: Path) -> Written:
    _, videos, rate = folder_of_tar_shards(folder)
    (folder / "deep/s-1.tar").rename(folder / "s-1.tar")
    return str(folder / "s-{0..1}.tar"), videos, rate


def hdf5(folder: Path) -> Written:
    stack, single = noise(0, 2, T, H, W, 3), noise(1, T, H, W)
    with h5py.File(folder / "a.h5", "w") as file:
        file["group/stack"], file["single"], file["labels"] = stack, single, ["a", "b", "a"]
    grey = np.repeat(single[..., None], 3, axis=3)
    return str(folder / "a.h5"), {"group/stack/0": stack[0], "group/stack/1": stack[1], "single": grey}, None


def npz(folder: Path) -> Written:
    stack, single = noise(0, 2, T, H, W, 3), noise(1, T + 1, H, W, 3)
    np.savez_compressed(folder / "a.npz", stack=stack, single=single)
    return str(folder / "a.npz"), {"stack/0": stack[0], "stack/1": stack[1], "single": single}, None


def npy(folder: Path) -> Written:
    stack = noise(0, 11, T, H, W, 3)
    np.save(folder / "a.npy", stack)
    return f"{folder / 'a.npy'}?fps={RATE}", {f"a/{row:02}": frames for row, frames in enumerate(stack)}, RATE


def bair_records(folder: Path) -> Written:
    videos = {}
    for seed, name in enumerate(("train/b", "test/a")):
        stack = noise(seed, 2, T, 64, 64, 3)
        (folder / name).parent.mkdir()
        (folder / f"{name}.tfrecords").write_bytes(b"".join(map(record, stack)))
        videos |= {f"{name}/{row:04d}": frames for row, frames in enumerate(stack)}
    return str(folder), videos, None


def tabletop(folder: Path) -> Written:
    config = TabletopConfig(frames=T, height=16, width=16, seed=3, frame_rate=RATE)
    videos = {f"{index:06d}": tabletop_clip(config, index).frames for index in range(3)}
    return f"tabletop:?videos=3&seed=3&frames={T}&size=16&frame_rate={RATE}", videos, RATE


def registered(folder: Path) -> Written:
    """A source that was registered in Python, by `registry`."""
    videos = write_videos(folder, "b.mkv", "deep/a.mkv")
    (folder / "list.txt").write_text("b.mkv\ndeep/a.mkv\n")
    return str(folder / "list.txt"), videos, 24.0


KINDS = [
    videos_in_folders,
    videos_with_metadata,
    one_video,
    folders_of_frames,
    folders_of_frames_at_a_rate,
    one_folder_of_frames,
    animations,
    folder_of_tar_shards,
    range_of_tar_shards,
    hdf5,
    npz,
    npy,
    bair_records,
    tabletop,
    registered,
]


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Registers the list of videos, and removes after the test what it registered."""
    with patch.object(SOURCES, "_added", []):
        SOURCES.register("video-list", open_video_list, "a list of videos (.txt)")
        yield


@pytest.mark.parametrize("write", KINDS)
def test_every_source_keeps_the_contract(write: Callable[[Path], Written], tmp_path: Path) -> None:
    location, videos, frame_rate = write(tmp_path)
    check_contract(location, videos, frame_rate)
    check_workers(location)
    if list(tmp_path.iterdir()):  # Tabletop has no files
        check_damage(location, tmp_path)


def test_other_files_beside_videos_change_nothing_else(tmp_path: Path) -> None:
    location, videos, frame_rate = videos_beside_other_files(tmp_path)
    check_contract(location, videos, frame_rate)
    check_workers(location)


class Absolute(VideoList):
    """Violates the contract: ids are absolute paths."""

    def __init__(self, location: str, path: Path) -> None:
        super().__init__(location, path)
        self.entries = tuple(VideoEntry(str(self._root / entry.id)) for entry in self.entries)


class ByWorkingDirectory(VideoList):
    """Violates the contract: ids depend on the working directory."""

    def __init__(self, location: str, path: Path) -> None:
        super().__init__(location, path)
        folder_name = Path.cwd().name
        self.entries = tuple(VideoEntry(f"{folder_name}/{entry.id}") for entry in self.entries)


class AsListed(VideoList):
    """Violates the contract: entries are in the order of the file system."""

    def __init__(self, location: str, path: Path) -> None:
        super().__init__(location, path)
        self.entries = tuple(VideoEntry(video.name) for video in path.parent.glob("*.mkv"))


class SkippingAbsolute(VideoList):
    """Violates the contract: what was skipped is named by where it lies on this machine."""

    def __init__(self, location: str, path: Path) -> None:
        super().__init__(location, path)
        self.inventory = Inventory.of({"unused .txt": [str(path)]})


class Overstating(VideoList):
    """Violates the contract: probes one frame too many."""

    def probe(self, index: int) -> VideoProbe:
        probe = super().probe(index)
        return VideoProbe(np.append(probe.frame_times, probe.frame_times[-1] + 1 / 24), H, W, probe.codec)


class Turned(VideoList):
    """Violates the contract: probes height and width swapped."""

    def probe(self, index: int) -> VideoProbe:
        probe = super().probe(index)
        return VideoProbe(probe.frame_times, probe.width, probe.height, probe.codec)


class ReadingOn(VideoList):
    """Violates the contract: a frame before the last one that was read is returned as the last one."""

    def __init__(self, location: str, path: Path) -> None:
        super().__init__(location, path)
        self._at = 0

    def read(self, index: int, indices: np.ndarray, framing: Framing) -> np.ndarray:
        indices = np.maximum(indices, min(self._at, self.probe(index).frames - 1))
        self._at = int(indices[-1])
        return super().read(index, indices, framing)


class Unframed(VideoList):
    """Other sizes than a video's own are black."""

    def read(self, index: int, indices: np.ndarray, framing: Framing) -> np.ndarray:
        return super().read(index, indices, framing) * np.uint8((framing.height, framing.width) == (H, W))


class Reusing(VideoList):
    """Reads into the memory that it returned before, where the shape is the same."""

    def __init__(self, location: str, path: Path) -> None:
        super().__init__(location, path)
        self._frames = dict[tuple[int, ...], np.ndarray]()

    def read(self, index: int, indices: np.ndarray, framing: Framing) -> np.ndarray:
        found = super().read(index, indices, framing)
        frames = self._frames.setdefault(found.shape, np.empty_like(found))
        frames[:] = found
        return frames


class Wrapping(VideoList):
    """Violates the contract: frame -1 is the last one, as in NumPy."""

    def read(self, index: int, indices: np.ndarray, framing: Framing) -> np.ndarray:
        wrapped = np.where(indices < 0, indices + self.probe(index).frames, indices)
        return super().read(index, np.sort(wrapped), framing)


class Elsewhere(VideoList):
    """Violates the contract: its location is the folder of the list."""

    def __init__(self, location: str, path: Path) -> None:
        super().__init__(str(path.parent), path)


class Raw(VideoList):
    """Violates the contract: raises errors of the operating system."""

    def probe(self, index: int) -> VideoProbe:
        self._file(index).read_bytes()
        return super().probe(index)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Absolute, check_entries),
        (Elsewhere, check_entries),
        (ByWorkingDirectory, check_reopened_elsewhere),
        (AsListed, check_listing_order),
        (SkippingAbsolute, check_inventory),
        (Overstating, check_probes_and_frames),
        (Turned, check_probes_and_frames),
        (ReadingOn, check_reading_in_any_order),
        (Unframed, check_reading_in_any_order),
        (Reusing, check_reading_in_any_order),
        (Wrapping, check_impossible_requests),
        (Raw, check_damage),
    ],
)
def test_the_checks_detect_violations(broken: type[VideoList], check: Callable[..., None], tmp_path: Path) -> None:
    videos = write_videos(tmp_path, "a.mkv", "b.mkv", "c.mkv")
    (tmp_path / "list.txt").write_text("a.mkv\nb.mkv\nc.mkv\n")
    more = {check_probes_and_frames: (videos, 24.0), check_damage: (tmp_path,)}.get(check, ())
    location = str(tmp_path / "list.txt")
    check(location, *more, open_at=lambda text: VideoList(text, Path(text)))
    with pytest.raises((AssertionError, DecodeFailure, FileNotFoundError, pytest.fail.Exception)):
        check(location, *more, open_at=lambda text: broken(text, Path(text)))
