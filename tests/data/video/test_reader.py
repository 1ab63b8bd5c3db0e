"""Frames by number, whatever the container states; and errors for damaged files."""

from __future__ import annotations

import io
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from numbered_videos import HEIGHT, WIDTH, numbers_of, write_numbered, write_sound

from tokenreel.data.spec import Framing
from tokenreel.data.video.container import MAX_PIXELS, MAX_SECONDS
from tokenreel.data.video.probe import REASONS, DecodeFailure, VideoProbe, resample_indices
from tokenreel.data.video.reader import VideoReader, decode_frames, probe_video
from tokenreel.errors import DataError

AS_IS = Framing(HEIGHT, WIDTH)
COUNT = 53
UNEVEN = [Fraction(i, 25) + Fraction(i % 3, 100) for i in range(COUNT)]  # seconds: steps of 50, 50 and 20 ms


def real_clips() -> list[Path]:
    for folder in Path(__file__).resolve().parents:
        clips = sorted((folder.parent / "shared" / "clips").glob("*.[ma][kpv][v4i]"))
        if clips:
            return clips
    return []


FILES = {
    "constant.mp4": {},
    "no-b-frames.mp4": {"b_frames": 0},
    "uneven.mp4": {"times": UNEVEN},
    "no-count.mkv": {},
    "uneven.mkv": {"times": UNEVEN},
    "late-start.ts": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "h264-out-of-order.avi": {},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "lossless.mkv": {"codec": "ffv1"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, how in FILES.items():
        write_numbered(folder / name, COUNT, **how)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_frames_have_their_numbers_and_times(files: Path, name: str) -> None:
    probe = probe_video(files / name)
    indices = np.array([0, 1, 1, 2, 7, 19, 19, 20, 51, 52])
    assert numbers_of(decode_frames(files / name, indices, AS_IS)) == indices.tolist()
    times = UNEVEN if "uneven" in name else [Fraction(i, 24) for i in range(COUNT)]
    assert np.abs((probe.frame_times - probe.frame_times[0]) - np.array(times, dtype=float)).max() <= 1.01e-3
    assert (probe.height, probe.width, probe.frames) == (HEIGHT, WIDTH, COUNT)


def test_the_files_have_the_properties_that_their_names_state(files: Path) -> None:
    """Verifies the test above: these containers lack a count, start late and store frames out of order."""
    with av.open(str(files / "no-count.mkv")) as file:
        assert file.streams.video[0].frames == 0
    assert probe_video(files / "late-start.ts").frame_times[0] > 0
    with av.open(str(files / "constant.mp4")) as file:
        pts = [packet.pts for packet in file.demux(video=0) if packet.size]
    assert pts != sorted(pts)


def test_one_reader_serves_overlapping_backward_and_distant_reads(files: Path) -> None:
    with VideoReader(files / "uneven.mp4") as reader:
        for first, step, count in [(0, 1, 7), (5, 1, 7), (3, 2, 5), (40, 1, 13), (41, 3, 4), (0, 1, 1), (10, 5, 8)]:
            indices = first + step * np.arange(count)
            assert numbers_of(reader.read(indices, AS_IS)) == indices.tolist()
        small = reader.read(np.array([44, 45]), Framing(12, 16))
    assert small.shape == (2, 12, 16, 3)
    assert numbers_of(small) == [44, 45]


def test_a_file_object_reads_like_a_file(files: Path) -> None:
    """Videos inside tar shards are passed this way, also after some bytes were read."""
    file = io.BytesIO((files / "constant.mp4").read_bytes())
    file.read(5)
    with VideoReader(file) as reader:
        assert numbers_of(reader.read(np.array([11, 31]), AS_IS)) == [11, 31]
        assert numbers_of(reader.read(np.array([3]), AS_IS)) == [3]


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv", "late-start.ts"])
@pytest.mark.parametrize("rate", [7.0, 10.0, 25.0, 100.0])
def test_resampling_takes_the_last_frame_not_after_each_tick(files: Path, name: str, rate: float) -> None:
    exact = UNEVEN if "uneven" in name else [Fraction(i, 24) for i in range(COUNT)]
    shown = resample_indices(probe_video(files / name), rate)
    for tick, frame in enumerate(shown):
        time = Fraction(tick) / Fraction(rate)
        assert frame == max(i for i in range(COUNT) if exact[i] <= time)
    end = exact[-1] + Fraction(1, 24)  # of the last frame
    assert Fraction(len(shown) - 1) / Fraction(rate) < end <= Fraction(len(shown)) / Fraction(rate) + Fraction(3, 1000)


@pytest.mark.parametrize("rate", [24, Fraction(30000, 1001), 30, 60])
def test_times_rounded_to_milliseconds_do_not_move_a_frame(rate: Fraction | int) -> None:
    """Matroska's rounding would otherwise sometimes repeat one frame and drop its neighbour."""
    times = np.array([round(1000 * i / rate) / 1000 for i in range(997)])
    assert np.array_equal(resample_indices(timed(times + 17.003), float(rate)), np.arange(997))


def test_without_a_rate_every_frame_is_shown_once() -> None:
    assert np.array_equal(resample_indices(timed(np.array([0.0, 0.5, 0.6])), None), [0, 1, 2])


def test_frames_without_times_cannot_be_resampled() -> None:
    with pytest.raises(DataError, match="fps=RATE"):
        resample_indices(timed(np.full(5, np.nan)), 10.0)


@pytest.mark.parametrize(("standard", "number"), [("bt709", 1), ("bt470bg", 5)])
def test_colours_are_decoded_as_encoded(tmp_path: Path, standard: str, number: int) -> None:
    """The matrix that the file names is applied, and conversion adds no bias."""
    colours = np.array([(200, 30, 40), (30, 200, 40), (40, 30, 200)], np.uint8)
    pixels = np.repeat(np.repeat(colours, 16, axis=0)[None], 32, axis=0)
    with av.open(str(tmp_path / "c.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=5, options={"crf": "1", "colorspace": standard})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.colorspace = number
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        file.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=number, interpolation=exact)))
        file.mux(stream.encode(None))
    read = decode_frames(tmp_path / "c.mp4", np.array([0]), Framing(32, 48))[0]
    assert np.abs(read[16, [8, 24, 40]].astype(int) - colours).max() <= 1


def timed(times: np.ndarray) -> VideoProbe:
    return VideoProbe(times, HEIGHT, WIDTH, "h264")


def _read_all(path: Path) -> np.ndarray:
    return decode_frames(path, np.arange(probe_video(path).frames), AS_IS)


def _reason(path: Path) -> str:
    with pytest.raises(DecodeFailure) as caught:
        _read_all(path)
    assert caught.value.reason in REASONS
    return caught.value.reason


def _truncate(source: Path, path: Path, fraction: float) -> Path:
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def test_a_file_that_is_not_a_video_is_unreadable(tmp_path: Path) -> None:
    contents = {
        "empty": b"",
        "random": np.random.default_rng(0).bytes(5003),
        "text": b"no video at all\n" * 100,
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        "concat": b"ffconcat version 1.0\nfile /etc/hostname\n",
    }
    for name, data in contents.items():
        (tmp_path / f"{name}.mp4").write_bytes(data)
        assert _reason(tmp_path / f"{name}.mp4") == "unreadable", name


@pytest.mark.parametrize("name", ["constant.mp4", "no-count.mkv", "mpeg4.avi"])
def test_a_file_truncated_in_its_header_gets_a_reason(tmp_path: Path, files: Path, name: str) -> None:
    for size in range(1, 2000, 97):
        (tmp_path / name).write_bytes((files / name).read_bytes()[:size])
        assert _reason(tmp_path / name) in ("unreadable", "no-video", "unsupported-codec", "truncated"), size


@pytest.mark.parametrize("name", ["constant.mp4", "no-count.mkv", "mpeg4.avi"])
def test_half_a_file_is_reported_as_truncated(tmp_path: Path, files: Path, name: str) -> None:
    assert _reason(_truncate(files / name, tmp_path / name, 0.5)) == "truncated"


def test_half_a_transport_stream_keeps_its_complete_frames(tmp_path: Path, files: Path) -> None:
    """MPEG-TS does not state its length; only the last frame may be truncated, and is then refused."""
    path = _truncate(files / "late-start.ts", tmp_path / "cut.ts", 0.5)
    frames = probe_video(path).frames
    assert 5 < frames < COUNT
    assert numbers_of(decode_frames(path, np.arange(frames - 3), AS_IS)) == list(range(frames - 3))


def test_sound_without_frames_is_not_a_video(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.mp4")
    assert _reason(tmp_path / "a.mp4") == "no-video"


def test_a_codec_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.avi", 3, codec="magicyuv", pix_fmt="gbrp")
    assert _reason(tmp_path / "a.avi") == "unsupported-codec"


def test_huge_frames_are_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    side = math.isqrt(MAX_PIXELS) + 16
    with av.open(str(tmp_path / "huge.avi"), "w") as file:
        stream = file.add_stream("mjpeg", rate=5)
        stream.width = stream.height = side
        stream.pix_fmt = "yuvj420p"
        frame = av.VideoFrame(side, side, "yuvj420p")
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert _reason(tmp_path / "huge.avi") == "too-large"


def test_times_that_span_days_are_refused(tmp_path: Path) -> None:
    times = [Fraction(0), Fraction(1, 24), Fraction(int(MAX_SECONDS) + 60)]
    write_numbered(tmp_path / "days.mp4", 3, times=times, b_frames=0)
    assert _reason(tmp_path / "days.mp4") == "bad-timestamps"


def test_reading_beyond_the_end_is_too_short(files: Path) -> None:
    with pytest.raises(DecodeFailure, match="too-short"):
        decode_frames(files / "constant.mp4", np.array([COUNT]), AS_IS)


def test_a_missing_file_is_not_a_decode_failure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.mp4") as caught:
        probe_video(tmp_path / "gone.mp4")
    assert not isinstance(caught.value, DecodeFailure)


def test_damage_is_refused_until_the_next_keyframe_and_nowhere_else(tmp_path: Path) -> None:
    """Frames predicted from a damaged one are damaged, which the decoder does not report; other clips are not."""
    path = tmp_path / "damaged.mp4"
    write_numbered(path, 30, b_frames=0, options={"g": "10", "sc_threshold": "0"})
    with av.open(str(path)) as file:
        packets = [(entry.pos, entry.size) for entry in file.streams.video[0].index_entries]
    data = bytearray(path.read_bytes())
    start, size = packets[13]
    data[start + 40 : start + size] = np.random.default_rng(1).bytes(size - 40)
    path.write_bytes(data)
    with VideoReader(path) as reader:
        assert numbers_of(reader.read(np.arange(8, 13), AS_IS)) == list(range(8, 13))
        for first in (13, 15, 19, 15):
            with pytest.raises(DecodeFailure, match="corrupt"):
                reader.read(np.arange(first, first + 2), AS_IS)
        assert numbers_of(reader.read(np.arange(20, 30), AS_IS)) == list(range(20, 30))
        assert numbers_of(reader.read(np.arange(5), AS_IS)) == list(range(5))


@pytest.mark.skipif(not real_clips(), reason="the folder of real videos is missing")
def test_real_clips_give_every_frame() -> None:
    expected = {"av1_video": 125, "carphone_pristine": 120, "h264_10bits": 30, "h265_video": 10, "mm_test": 164}
    for path in real_clips():
        probe = probe_video(path)
        assert probe.frames == expected.get(path.stem, probe.frames)
        read = decode_frames(path, np.arange(min(probe.frames, 40)), Framing(16, 16))
        assert np.std(read) > 5
    assert len(real_clips()) >= len(expected)
