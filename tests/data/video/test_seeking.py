"""Frames read in any order equal those of decoding from the beginning, and cost little where keyframes can be used."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numbered_videos import HEIGHT, WIDTH, numbers_of, write_numbered

from tokenreel.data.sources.open import open_source
from tokenreel.data.spec import Framing
from tokenreel.data.video.container import VideoFile
from tokenreel.data.video.keyframes import KeyframeIndex
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.data.video.reader import MIN_SKIPPED, VideoReader

AS_IS = Framing(HEIGHT, WIDTH)
COUNT, GROUP = 131, 11  # frames, and at most so many from one keyframe to the next
X265 = "keyint=11:open-gop={}:bframes=3:log-level=none:pools=1:frame-threads=1"
OPEN = {"g": "11", "x264-params": "open-gop=1:scenecut=0:b-pyramid=normal"}

SOUGHT = {
    "closed.mp4": {"options": {"g": "11"}},
    "closed.mkv": {"options": {"g": "11"}},
    "no-b-frames.mp4": {"options": {"g": "11", "sc_threshold": "0"}, "b_frames": 0},
    "open.mp4": {"options": OPEN, "b_frames": 3},
    "open.mkv": {"options": OPEN, "b_frames": 3},
    "open.ts": {"options": OPEN, "b_frames": 3},
    "hevc-closed.mp4": {"codec": "libx265", "options": {"x265-params": X265.format(0)}},
    "hevc-open.mp4": {"codec": "libx265", "options": {"x265-params": X265.format(1)}},
    "hevc-open.mkv": {"codec": "libx265", "options": {"x265-params": X265.format(1)}},
    "hevc-open.ts": {"codec": "libx265", "options": {"x265-params": X265.format(1)}},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "11", "lag-in-frames": "7", "auto-alt-ref": "1", "cpu-used": "5"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "11", "lag-in-frames": "7", "cpu-used": "8"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"g": "11", "preset": "12"}},
    "av1.mkv": {"codec": "libsvtav1", "options": {"g": "11", "preset": "12"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "11"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"g": "11", "bf": "2"}},
    "mpeg1.ts": {"codec": "mpeg1video", "options": {"g": "11", "bf": "2"}},
    "ffv1.mkv": {"codec": "ffv1", "options": {"g": "11"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "11"}, "b_frames": 0},
    "msmpeg4.avi": {"codec": "msmpeg4v3", "options": {"g": "11"}, "b_frames": 0},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mjpeg.mkv": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}
FORWARD = {
    "count.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "b-frames.avi": {"codec": "mpeg4", "options": {"g": "11"}},
    "one-group.mp4": {"options": {"g": "997", "sc_threshold": "0"}},
    # Its only intact start is the first frame: every other keyframe is a P frame, after which a picture recovers.
    "intra-refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=11:scenecut=0"}, "b_frames": 0},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, how in (SOUGHT | FORWARD).items():
        write_numbered(folder / name, COUNT, **how)
    return folder


class CountedReader(VideoReader):
    """Counts the packets that it reads after its index is complete."""

    def __init__(self, file: VideoFile) -> None:
        self.packets = 0
        super().__init__(file, on_packet=self._count)
        self.packets = 0

    def _count(self) -> None:
        self.packets += 1


def forward_frames(file: VideoFile) -> np.ndarray:
    """Every frame, by one pass from the beginning."""
    with VideoReader(file) as reader:
        reader.index.keyframes.clear()
        return reader.read(np.arange(reader.probe.frames), AS_IS)


def outcomes(reader: VideoReader, numbers: np.ndarray) -> dict[int, bytes | None]:
    """The bytes of each frame, read one by one; None where it is refused."""
    found: dict[int, bytes | None] = {}
    for number in numbers:
        try:
            found[int(number)] = reader.read(np.array([number]), AS_IS).tobytes()
        except DecodeFailure:
            found[int(number)] = None
    return found


def shuffled(count: int) -> np.ndarray:
    return np.random.default_rng(3).permutation(count)


@pytest.mark.parametrize("name", SOUGHT | FORWARD)
def test_frames_in_any_order_equal_forward_decoding(files: Path, name: str) -> None:
    expected = forward_frames(files / name)
    if name != "count.gif":  # whose few colours and merged times are none of this test's business
        assert numbers_of(expected) == list(range(COUNT))
    with CountedReader(files / name) as reader:
        for number in shuffled(len(expected)):
            clip = np.arange(number, min(number + 5, len(expected)))
            assert np.array_equal(reader.read(clip, AS_IS), expected[clip]), number
        per_clip = reader.packets / len(expected)
    assert (per_clip < 3 * GROUP) == (name in SOUGHT)


@pytest.mark.parametrize("name", SOUGHT)
def test_a_frame_far_ahead_costs_the_frames_from_its_keyframe(files: Path, name: str) -> None:
    with CountedReader(files / name) as reader:
        assert numbers_of(reader.read(np.array([2, 120]), AS_IS)) == [2, 120]
        assert reader.packets < 4 * GROUP


def test_frames_a_few_ahead_are_reached_without_seeking(files: Path) -> None:
    numbers = np.arange(0, COUNT, MIN_SKIPPED // 2)
    with CountedReader(files / "closed.mp4") as reader:
        assert numbers_of(reader.read(numbers, AS_IS)) == numbers.tolist()
        assert reader.packets <= COUNT + 1


def test_a_video_inside_another_file_is_sought_too(files: Path) -> None:
    with CountedReader(io.BytesIO((files / "open.ts").read_bytes())) as reader:
        assert numbers_of(reader.read(np.array([120]), AS_IS)) == [120]
        assert reader.packets < 4 * GROUP


def test_frames_after_a_seek_are_turned_too(files: Path) -> None:
    """The container states the rotation once, before the first packet."""
    data = bytearray((files / "closed.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)
    turned = Framing(WIDTH, HEIGHT)
    expected = np.rot90(forward_frames(files / "closed.mp4"), -1, axes=(1, 2))
    with CountedReader(io.BytesIO(data)) as reader:
        for number in (120, 3, 77):
            assert np.array_equal(reader.read(np.array([number]), turned)[0], expected[number])
        assert reader.packets < 9 * GROUP


def boxes(data: bytes, name: bytes) -> int:
    """Where the content of the only MP4 box `name` begins, after its version and flags."""
    assert data.count(name) == 1
    return data.index(name) + 8


@pytest.mark.parametrize("name", [name for name in SOUGHT if name.endswith(".mp4")])
def test_an_index_that_calls_other_frames_keyframes_is_not_followed(files: Path, name: str) -> None:
    """MP4's table of keyframes names the frame after each, from which nothing can be decoded."""
    data = bytearray((files / name).read_bytes())
    first = boxes(data, b"stss") + 4
    count = int.from_bytes(data[first - 4 : first], "big")
    assert count > 3
    for where in range(first + 4, first + 4 * count, 4):
        data[where : where + 4] = (int.from_bytes(data[where : where + 4], "big") + 1).to_bytes(4, "big")
    expected = forward_frames(files / name)
    with VideoReader(io.BytesIO(data)) as reader:
        for number in shuffled(COUNT):
            assert np.array_equal(reader.read(np.array([number]), AS_IS)[0], expected[number]), number


@pytest.mark.parametrize("to", [0, -1])
def test_an_index_that_leads_elsewhere_is_not_followed(files: Path, to: int) -> None:
    """Matroska's index with the position of its first or last cluster in every entry, before the packets were read."""
    data = bytearray((files / "closed.mkv").read_bytes())
    cues = data.rindex(b"\x1c\x53\xbb\x6b")
    entries = [i for i in range(cues, len(data) - 4) if data[i] == 0xF1 and data[i + 1] == 0x82]  # CueClusterPosition
    assert len({bytes(data[i + 2 : i + 4]) for i in entries}) > 3
    for i in entries:
        data[i + 2 : i + 4] = data[entries[to] + 2 : entries[to] + 4]
    with VideoReader(files / "closed.mkv") as intact, VideoReader(io.BytesIO(data), intact.index) as reader:
        expected = forward_frames(files / "closed.mkv")
        for number in shuffled(COUNT):
            assert np.array_equal(reader.read(np.array([number]), AS_IS)[0], expected[number])


@pytest.mark.parametrize("name", ["open.ts", "closed.mp4", "hevc-open.mkv"])
def test_times_and_positions_that_are_not_in_the_file_are_not_followed(files: Path, name: str) -> None:
    expected = forward_frames(files / name)
    with VideoReader(files / name) as reader:
        keyframes = reader.index.keyframes
        for column in (keyframes._times, keyframes._decode_times, keyframes._positions):
            for entry in range(len(column)):
                column[entry] += 1009
        for number in shuffled(COUNT):
            assert np.array_equal(reader.read(np.array([number]), AS_IS)[0], expected[number])


@pytest.mark.parametrize("name", ["closed.mp4", "open.mp4", "hevc-open.mkv", "vp9.webm", "mpeg2.ts"])
def test_damage_is_refused_as_by_forward_decoding(files: Path, name: str) -> None:
    """Also in keyframes; frames of other groups are intact and read."""
    generator = np.random.default_rng(7)
    for _ in range(3):
        data = bytearray((files / name).read_bytes())
        for where in generator.integers(len(data) // 4, len(data) * 9 // 10, 2):
            data[where : where + 24] = generator.bytes(24)
        with VideoReader(io.BytesIO(data)) as forward, VideoReader(io.BytesIO(data)) as reader:
            forward.index.keyframes.clear()
            expected = outcomes(forward, np.arange(forward.probe.frames))
            assert outcomes(reader, shuffled(forward.probe.frames)) == expected


def packet(pts: int | None, keyframe: bool = False) -> SimpleNamespace:
    return SimpleNamespace(pts=pts, dts=None, pos=None, is_keyframe=keyframe, is_discard=False)


def test_a_keyframe_counts_only_if_it_is_shown_after_all_packets_before_it() -> None:
    index = KeyframeIndex()
    for one in [packet(0, True), packet(5), packet(3, True), packet(7, True), packet(6), packet(9, True)]:
        index.add(one)
    shown = [index.last_until(time) for time in range(-1, 10)]
    assert [None if found is None else found.time for found in shown] == [None] + [0] * 7 + [7, 7, 9]


def test_a_packet_without_a_time_makes_an_index_useless() -> None:
    index = KeyframeIndex()
    for one in [packet(0, True), packet(7, True), packet(None), packet(9, True)]:
        index.add(one)
    assert index.last_until(99) is None


def test_a_source_reads_the_packets_of_a_file_once(files: Path, tmp_path: Path) -> None:
    """An index is kept while other videos are read, so that random clips of long videos do not cost it again."""
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes((files / "closed.mp4").read_bytes())
    source = open_source(str(tmp_path))
    calls = []
    source.on_progress = lambda: calls.append(1)
    for video in (0, 1):
        source.probe(video)
    assert len(calls) >= 2 * COUNT
    calls.clear()
    for number in (3, 125, 77, 20):
        for video in (0, 1):
            assert numbers_of(source.read(video, np.array([number]), AS_IS)) == [number]
    assert len(calls) < 8 * 3 * GROUP
