"""Frames are what a player shows: turned and mirrored, with square pixels, of the right stream, none lost, each as long
as it is stated. Right values are computed by hand, and compared with the program `ffmpeg` where it is installed.
"""

from __future__ import annotations

import io
import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from numbered_videos import HEIGHT, WIDTH, numbered_frames, numbers_of, write_numbered
from PIL import Image

from tokenreel.data.controls.sound_reader import SoundReader
from tokenreel.data.spec import Framing
from tokenreel.data.video.probe import DecodeFailure, resample_indices
from tokenreel.data.video.reader import decode_frames, probe_video, read_video

MATRICES = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]
UPRIGHT = (1, 0, 0, 1)


@cache
def has_ffmpeg() -> bool:
    """Whether the program is there, in a version (5.1) that mirrors by display matrices."""
    if shutil.which("ffmpeg") is None:
        return False
    version = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"ffmpeg version n?(\d+)\.(\d+)", version)
    return found is not None and tuple(map(int, found.groups())) >= (5, 1)


needs_ffmpeg = pytest.mark.skipif(not has_ffmpeg(), reason="no ffmpeg 5.1")


def by_ffmpeg(path: Path, height: int, width: int, filters: str = "null") -> np.ndarray:
    """uint8 [n, height, width, 3]: what `ffmpeg` writes; fails if its frames have another size."""
    command = ["ffmpeg", "-v", "error", "-i", path, "-vf", filters, "-f", "rawvideo", "-pix_fmt", "rgb24"]
    pixels = subprocess.run([*command, "-fps_mode", "passthrough", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Writes a, b, c, d into the track header of an mp4."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def moved(frame: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Brute force: the pixel at (x, y) goes to (a x + c y, b x + d y), and the whole to where it begins at (0, 0)."""
    a, b, c, d = matrix
    height, width = frame.shape[:2]
    places = {(a * x + c * y, b * x + d * y): frame[y, x] for y in range(height) for x in range(width)}
    left, top = min(x for x, _ in places), min(y for _, y in places)
    size = (width, height) if a == 0 else (height, width)
    shown = np.zeros((*size, 3), np.uint8)
    for (x, y), pixel in places.items():
        shown[y - top, x - left] = pixel
    return shown


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("player") / "v.mp4"
    write_numbered(path, 3, b_frames=0)
    return path


@pytest.mark.parametrize("matrix", MATRICES)
def test_every_display_matrix_turns_and_mirrors(mp4: Path, tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    upright = decode_frames(mp4, np.array([2]), Framing(HEIGHT, WIDTH))[0]
    path = Path(shutil.copy(mp4, tmp_path / "v.mp4"))
    set_matrix(path, matrix)
    expected = moved(upright, matrix)
    read = decode_frames(path, np.array([2]), Framing(*expected.shape[:2]))[0]
    assert np.array_equal(read, expected)
    if has_ffmpeg():
        others = [moved(upright, other) for other in MATRICES if other != matrix]
        reference = by_ffmpeg(path, *expected.shape[:2])[2]
        nearest = min(difference(reference, other) for other in others if other.shape == reference.shape)
        assert difference(reference, read) < 0.5 * nearest


def test_a_matrix_without_any_entry_changes_nothing(mp4: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(mp4, tmp_path / "v.mp4"))
    set_matrix(path, (0, 0, 0, 0))
    as_is = Framing(HEIGHT, WIDTH)
    assert np.array_equal(read_video(path, as_is), read_video(mp4, as_is))


@pytest.mark.parametrize(("orientation", "matrix"), [(1, UPRIGHT), (2, (-1, 0, 0, 1)), (4, (1, 0, 0, -1)),
                                                     (6, (0, 1, -1, 0)), (7, (0, -1, -1, 0))])  # fmt: skip
def test_exif_of_motion_jpeg_turns_and_mirrors(
    tmp_path: Path, orientation: int, matrix: tuple[int, int, int, int]
) -> None:
    """The values of orientation are EXIF's (JEITA CP-3451, tag 274)."""

    def write(name: str, exif: Image.Exif) -> Path:
        jpeg = io.BytesIO()
        Image.fromarray(numbered_frames(3)[2]).save(jpeg, "JPEG", exif=exif)
        with av.open(str(tmp_path / name), "w") as file:
            stream = file.add_stream("mjpeg", rate=5)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 5)
            file.mux(packet)
        return tmp_path / name

    exif = Image.Exif()
    plain = decode_frames(write("plain.avi", exif), np.array([0]), Framing(HEIGHT, WIDTH))[0]
    exif[274] = orientation
    expected = moved(plain, matrix)
    read = decode_frames(write("v.avi", exif), np.array([0]), Framing(*expected.shape[:2]))[0]
    assert np.array_equal(read, expected)


def write_disk(path: Path, aspect: Fraction) -> None:
    """A video of 96 lines whose pixels are `aspect` times as wide as high, with a disk of 60 lines in its middle."""
    width = int(2 * round(96 / aspect))  # shown as 192 pixels
    y, x = np.mgrid[:96, :width] + 0.5
    disk = np.hypot(y - 48, (x - width / 2) * float(aspect)) < 30
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=5, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = width, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        pixels = np.repeat(np.where(disk, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))


def extents(frame: np.ndarray) -> tuple[float, float]:
    """Height and width of the disk in a frame, in pixels."""
    bright = frame[..., 1] / 255.0
    return float(bright.sum(axis=0).max()), float(bright.sum(axis=1).max())


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.ts"])
@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2), Fraction(4, 3)])
def test_pixels_are_square_before_the_crop(tmp_path: Path, name: str, aspect: Fraction) -> None:
    write_disk(tmp_path / name, aspect)
    shown = decode_frames(tmp_path / name, np.array([0]), Framing(96, 192))[0]
    assert extents(shown) == pytest.approx((60, 60), abs=2)
    assert extents(decode_frames(tmp_path / name, np.array([0]), Framing(64, 64))[0]) == pytest.approx((40, 40), abs=2)
    if has_ffmpeg():
        assert difference(by_ffmpeg(tmp_path / name, 96, 192, "scale=iw*sar:ih,setsar=1")[0], shown) < 3


def test_turned_pixels_that_are_not_square(tmp_path: Path) -> None:
    """The aspect ratio is of the pixels as stored."""
    write_disk(tmp_path / "v.mp4", Fraction(2))
    set_matrix(tmp_path / "v.mp4", (0, 1, -1, 0))
    shown = decode_frames(tmp_path / "v.mp4", np.array([0]), Framing(192, 96))[0]
    assert extents(shown) == pytest.approx((60, 60), abs=2)


def test_without_a_crop_the_whole_frame_is_squeezed_whatever_its_pixels(tmp_path: Path) -> None:
    write_disk(tmp_path / "v.mp4", Fraction(2))
    shown = decode_frames(tmp_path / "v.mp4", np.array([0]), Framing(96, 96, crop="none"))[0]
    assert extents(shown) == pytest.approx((60, 30), abs=2)


def remux(source: Path, path: Path, change: Any) -> Path:
    """Copies the packets, as `change` (a function from and to a list of packets) leaves them."""
    with av.open(str(source)) as file, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(file.streams.video[0])
        for packet in change([packet for packet in file.demux(video=0) if packet.size]):
            packet.stream = stream
            copy.mux(packet)
    return path


def test_a_frame_with_the_time_of_another_is_not_lost_in_silence(tmp_path: Path) -> None:
    write_numbered(tmp_path / "v.mp4", 19, b_frames=0)

    def repeat(packets: list[Any]) -> list[Any]:
        packets[6].pts = packets[7].pts
        return packets

    with pytest.raises(DecodeFailure, match=r"bad-timestamps: of its 19 frames, .* 1 the time of another"):
        probe_video(remux(tmp_path / "v.mp4", tmp_path / "twice.mkv", repeat))


@pytest.mark.parametrize("counts", [(19, 19), (29, 7), (7, 29)])
def test_joined_transport_streams_whose_times_begin_again_are_refused(tmp_path: Path, counts: tuple[int, int]) -> None:
    """By time alone, the frames of the second would come between those of the first."""
    for name, count, shift in zip("ab", counts, (Fraction(0), Fraction(1, 100)), strict=True):
        write_numbered(tmp_path / f"{name}.ts", count, times=[Fraction(i, 24) + shift for i in range(count)])
    (tmp_path / "ab.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(DecodeFailure, match="bad-timestamps"):
        probe_video(tmp_path / "ab.ts")


def test_an_invisible_reference_of_vp8_is_no_frame(tmp_path: Path) -> None:
    """libvpx gives an alternate reference frame the time of the frame after it."""
    write_numbered(tmp_path / "v.webm", 19, codec="libvpx", options={"deadline": "realtime", "cpu-used": "8"})

    def hide(packets: list[Any]) -> list[Any]:
        hidden = av.Packet(bytes([bytes(packets[5])[0] & ~0x10]) + bytes(packets[5])[1:])
        hidden.pts = hidden.dts = packets[5].pts
        hidden.time_base = packets[5].time_base
        return [*packets[:5], hidden, *packets[5:]]

    path = remux(tmp_path / "v.webm", tmp_path / "hidden.webm", hide)
    assert probe_video(path).frames == 19
    assert numbers_of(read_video(path, Framing(HEIGHT, WIDTH))) == list(range(19))


def write_gif(path: Path, milliseconds: Sequence[int]) -> None:
    first, *rest = (Image.fromarray(frame) for frame in numbered_frames(len(milliseconds)))
    first.save(path, save_all=True, append_images=rest, duration=list(milliseconds))


@pytest.mark.parametrize(
    ("milliseconds", "rate", "shown"),
    [
        ((100, 100, 3000), 10.0, [0, 1, *[2] * 30]),
        ((100, 100, 50), 10.0, [0, 1, 2]),
        ((100, 100, 50), 40.0, [0] * 4 + [1] * 4 + [2] * 2),
        ((250, 100), 10.0, [0, 0, 0, 1]),
        ((700,), 10.0, [0] * 7),
    ],
)
def test_the_last_frame_is_shown_as_long_as_it_is_stated(
    tmp_path: Path, milliseconds: tuple[int, ...], rate: float, shown: list[int]
) -> None:
    write_gif(tmp_path / "v.gif", milliseconds)
    frames = read_video(tmp_path / "v.gif", Framing(HEIGHT, WIDTH, rate))
    assert numbers_of(frames) == shown
    if has_ffmpeg():
        assert numbers_of(by_ffmpeg(tmp_path / "v.gif", HEIGHT, WIDTH, f"fps={rate}:round=up")) == shown


@pytest.mark.parametrize("name", ["long.mkv", "long.mp4"])
def test_a_long_last_frame_is_no_truncation(tmp_path: Path, name: str) -> None:
    write_numbered(tmp_path / "v.mp4", 5, b_frames=0)

    def lengthen(packets: list[Any]) -> list[Any]:
        packets[-1].duration = int(3 / packets[-1].time_base)
        return packets

    path = remux(tmp_path / "v.mp4", tmp_path / name, lengthen)
    assert probe_video(path).last_duration == pytest.approx(3, abs=2e-3)
    assert len(resample_indices(probe_video(path), 24.0)) == pytest.approx(4 + 72, abs=1)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.ts", "v.avi"])
@pytest.mark.parametrize("rate", [7.0, 100.0])  # at 24, ffmpeg repeats frames as Matroska rounds their times
def test_resampling_is_that_of_ffmpeg(tmp_path: Path, name: str, rate: float) -> None:
    write_numbered(tmp_path / name, 29, codec="mpeg4" if name == "v.avi" else "libx264", b_frames=0)
    shown = resample_indices(probe_video(tmp_path / name), rate)
    assert numbers_of(by_ffmpeg(tmp_path / name, HEIGHT, WIDTH, f"fps={rate}:round=up")) == shown.tolist()


@pytest.mark.parametrize(
    ("sizes", "default", "right"),
    [(((32, 48), (48, 64)), None, 1), (((48, 64), (32, 48)), None, 0), (((32, 48), (48, 64)), 0, 0),
     (((48, 64), (32, 48), (48, 64)), None, 0)],
)  # fmt: skip
def test_the_video_stream_is_the_default_then_the_largest_then_the_first(
    tmp_path: Path, sizes: tuple[tuple[int, int], ...], default: int | None, right: int
) -> None:
    with av.open(str(tmp_path / "v.mkv"), "w") as file:
        streams = []
        for height, width in sizes:
            stream = file.add_stream("ffv1", rate=5)
            stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
            streams.append(stream)
        if default is not None:
            for number, stream in enumerate(streams):
                stream.disposition = Disposition.default if number == default else Disposition(0)
        for number, stream in enumerate(streams):
            grey = np.full((stream.height, stream.width, 3), 50 * number + 50, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            file.mux(stream.encode(None))
    probe = probe_video(tmp_path / "v.mkv")
    assert (probe.height, probe.width) == sizes[right]
    assert decode_frames(tmp_path / "v.mkv", np.array([0]), Framing(*sizes[right])).mean() == 50 * right + 50
    if has_ffmpeg():
        assert by_ffmpeg(tmp_path / "v.mkv", *sizes[right]).mean() == 50 * right + 50


def test_the_sound_stream_is_the_one_with_most_channels(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "v.mkv"), "w") as file:
        streams = [file.add_stream("pcm_s16le", rate=8000, layout=layout) for layout in ("mono", "stereo", "stereo")]
        for number, stream in enumerate(streams):
            samples = np.full((1, 800 * stream.channels), 1000 * (number + 1), np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=stream.layout.name)
            frame.sample_rate = 8000
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    with SoundReader(tmp_path / "v.mkv") as reader:
        assert np.allclose(reader.read(), 2000 / 2**15)
