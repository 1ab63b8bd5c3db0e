"""What probing found is kept beside a cache or a run, and used until the file changes or the record is damaged."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from numbered_videos import HEIGHT, WIDTH, numbers_of, write_numbered

from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.sources.base import ReadRequest, VideoSource
from tokenreel.data.sources.open import open_source
from tokenreel.data.spec import Framing
from tokenreel.data.video.probe import DecodeFailure, VideoProbe
from tokenreel.data.video.probe_store import ProbeStore, probes_beside
from tokenreel.data.video.reader import VideoIndex, VideoReader

AS_IS = Framing(HEIGHT, WIDTH)
COUNT = 61
FILES = {
    "a.mp4": {"options": {"g": "7"}},
    "b.mkv": {"options": {"g": "7"}, "b_frames": 2},
    "c.ts": {"codec": "mpeg2video", "options": {"g": "7", "bf": "2"}},
    "d.avi": {"codec": "mpeg4"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for name, how in FILES.items():
        write_numbered(tmp_path / "videos" / name, COUNT, **how)
    return tmp_path / "videos"


def opened(folder: Path) -> tuple[VideoSource, list[None]]:
    """A source that keeps its probes beside the folder, and a list that grows with each packet that it reads."""
    source = open_source(str(folder))
    source.probe_store = ProbeStore(probes_beside(folder))
    packets: list[None] = []
    source.on_progress = lambda: packets.append(None)
    return source, packets


def assert_equal(found: VideoProbe | None, expected: VideoProbe) -> None:
    assert found is not None
    np.testing.assert_array_equal(found.frame_times, expected.frame_times)
    for name in ("height", "width", "codec", "last_duration"):
        assert getattr(found, name) == getattr(expected, name)


def test_a_second_process_reads_no_packet_to_probe_and_few_to_decode(folder: Path) -> None:
    first, packets = opened(folder)
    assert [first.known_probe(video) for video in range(len(FILES))] == [None] * len(FILES)
    probes = [first.probe(video) for video in range(len(FILES))]
    assert len(packets) >= COUNT * len(FILES)
    again, packets = opened(folder)
    for video, probe in enumerate(probes):
        assert_equal(again.known_probe(video), probe)
        assert_equal(again.probe(video), probe)
    assert not packets
    for number in (53, 17):
        for video in range(3):  # AVI is decoded from its beginning
            assert numbers_of(again.read(video, np.array([number]), AS_IS)) == [number]
    assert len(packets) < 3 * 2 * 3 * 7


@pytest.mark.parametrize("change", ["content", "time"])
def test_a_file_that_changed_is_probed_again(folder: Path, change: str) -> None:
    first, _ = opened(folder)
    first.probe(0)
    path = folder / "a.mp4"
    if change == "content":
        write_numbered(path, COUNT - 10)
    else:
        os.utime(path, (1, 1))
    again, packets = opened(folder)
    assert again.known_probe(0) is None
    assert again.probe(0).frames == (COUNT - 10 if change == "content" else COUNT)
    assert packets


def test_a_damaged_record_is_made_anew_and_the_others_hold(folder: Path) -> None:
    first, _ = opened(folder)
    probes = [first.probe(video) for video in range(len(FILES))]
    (file,) = probes_beside(folder).iterdir()
    whole = file.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[generator.integers(len(whole))] ^= 1 << generator.integers(8)
        file.write_bytes(damaged)
        again, _ = opened(folder)
        found = [again.known_probe(video) for video in range(len(FILES))]
        for probe, expected in zip(found, probes, strict=True):
            if probe is not None:
                assert_equal(probe, expected)
        assert None in found
    for size in range(0, len(whole), 13):
        file.write_bytes(whole[:size])
        again, _ = opened(folder)
        for video, expected in enumerate(probes):
            assert_equal(again.probe(video), expected)
        for made in set(probes_beside(folder).iterdir()) - {file}:
            made.unlink()


def test_a_damaged_record_is_made_anew_once(folder: Path) -> None:
    """Also where the file with it comes after the others by its name."""
    first, _ = opened(folder)
    expected = first.probe(0)
    (file,) = probes_beside(folder).iterdir()
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.unlink()
    (probes_beside(folder) / "~.probes").write_bytes(damaged)
    for reads_packets in (True, False, False):
        again, packets = opened(folder)
        assert_equal(again.probe(0), expected)
        assert bool(packets) == reads_packets
    assert len(list(probes_beside(folder).iterdir())) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_a_store_keeps_no_file_open(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mp4", COUNT)
    with VideoReader(tmp_path / "a.mp4") as reader:
        index = reader.index
    before = len(list(Path("/proc/self/fd").iterdir()))
    stores = [ProbeStore(tmp_path / f"{number}.probes") for number in range(7)]
    for store in stores:
        store.add(["x"], index)
        assert store.find(["x"]) is not None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_failures_are_not_kept(folder: Path) -> None:
    """A disk that failed once may be back."""
    (folder / "a.mp4").write_bytes((folder / "a.mp4").read_bytes()[:-500])
    for _ in range(2):
        source, _ = opened(folder)
        with pytest.raises(DecodeFailure, match="truncated"):
            source.probe(0)
    assert not probes_beside(folder).exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pool_probes_each_video_once(folder: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with DecodePool(str(folder), workers, probes_beside(folder)) as pool:
        probes = list(pool.probe(range(len(FILES))))
        results = list(pool.read([ReadRequest(video, np.array([5, 44]), AS_IS) for video in range(4)], 3))
    assert [numbers_of(result.frames) for result in results if result.frames is not None] == [[5, 44]] * 4
    records = sum(len(file.read_bytes()) for file in probes_beside(folder).iterdir())
    monkeypatch.setattr(VideoReader, "_read_index", None)
    with DecodePool(str(folder), workers, probes_beside(folder)) as pool:
        for found, expected in zip(pool.probe(range(len(FILES))), probes, strict=True):
            assert isinstance(found, VideoProbe)
            assert isinstance(expected, VideoProbe)
            assert_equal(found, expected)
    assert sum(len(file.read_bytes()) for file in probes_beside(folder).iterdir()) == records


def test_a_store_that_cannot_be_written_is_said_once(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "videos.probes").write_text("a file of the user's")
    source, _ = opened(folder)
    for video in range(len(FILES)):
        assert source.probe(video).frames == COUNT
    assert len(caplog.records) == 1
    assert "videos will be probed again" in caplog.text


def test_a_file_of_probes_that_cannot_be_read_is_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (probes_beside(folder) / "a folder.probes").mkdir(parents=True)
    for _ in range(2):
        source, _ = opened(folder)
        for video in range(len(FILES)):
            assert source.probe(video).frames == COUNT
    assert [record.message.split(" cannot")[0] for record in caplog.records] == [
        f"{probes_beside(folder)}/a folder.probes"
    ] * 2


def test_three_hours_take_little_room(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mp4", COUNT)
    with VideoReader(tmp_path / "a.mp4") as reader:
        probe, keyframes = reader.probe, reader.index.keyframes
    times = 512 * np.arange(270_000)
    long = VideoProbe(times / 12800.0, probe.height, probe.width, probe.codec)
    ProbeStore(tmp_path / "kept").add(["x"], VideoIndex(long, times, 1 / 12800, keyframes))
    (file,) = (tmp_path / "kept").iterdir()
    assert file.stat().st_size < 30_000
    found = ProbeStore(tmp_path / "kept").find(["x"])
    assert found is not None
    np.testing.assert_array_equal(found.times, times)
    np.testing.assert_array_equal(found.keyframes.columns, keyframes.columns)
