"""Ranges of a sound, in any order, are the samples that decoding all of it gives; memory does not grow with it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from tokenreel.data.controls.sound import SLACK, resample, sound_range, windows
from tokenreel.data.controls.sound_reader import MIN_SKIPPED_S, SoundReader
from tokenreel.data.sources.open import open_source
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.data.video.writer import write_video

RATE, SECONDS = 16000, 31
SOUGHT = {
    "pcm.mov": "pcm_s16le",
    "flac.mkv": "flac",
    "alac.mp4": "alac",
    "mp3.mp4": "libmp3lame",
    "mp3.mkv": "libmp3lame",
    "vorbis.mkv": "vorbis",
}
FORWARD = {  # noise of AAC, AC-3 and MP2 runs on from frame to frame, and Opus predicts from all frames before
    "aac.mp4": "aac",
    "aac.ts": "aac",
    "ac3.mkv": "ac3",
    "mp2.mkv": "mp2",
    "opus.webm": "libopus",
    "mp3.mp3": "libmp3lame",
    "pcm.wav": "pcm_s16le",
}


def write_sound(path: Path, codec: str, samples: np.ndarray) -> None:
    """[channels, n] at RATE."""
    rate = {"libopus": 48000, "ac3": 48000}.get(codec, RATE)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, layout="stereo", options={"strict": "experimental"})
        stream.bit_rate = 64_000
        for first in range(0, samples.shape[1], RATE):
            part = np.ascontiguousarray(samples[:, first : first + RATE])
            frame = av.AudioFrame.from_ndarray(part, "fltp", "stereo")
            frame.sample_rate, frame.pts = RATE, first
            file.mux([packet for packet in stream.encode(frame) if packet.size])
        file.mux([packet for packet in stream.encode(None) if packet.size])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    times = np.arange(SECONDS * RATE) / RATE
    left = 0.3 * np.sin(2 * np.pi * 311 * times * (1 + 0.05 * np.sin(times)))
    right = 0.2 * np.random.default_rng(0).standard_normal(len(times)) * (np.sin(0.7 * times) > 0)
    for name, codec in (SOUGHT | FORWARD).items():
        write_sound(folder / name, codec, np.stack([left, right]).astype(np.float32))
    return folder


def decoded(path: Path, start: float) -> tuple[np.ndarray, int]:
    """All samples from `start` seconds on, each frame at its own time, and their rate."""
    samples = np.zeros(0, np.float32)
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        to_float = av.AudioResampler(format="fltp")
        for frame in file.decode(stream):
            assert frame.pts is not None
            position = round((float(frame.pts * frame.time_base) - start) * stream.rate)
            frame.pts = None
            piece = np.concatenate([one.to_ndarray().mean(axis=0) for one in to_float.resample(frame)])
            kept = piece[max(0, -position) :]
            position = max(0, position)
            samples = np.pad(samples, (0, max(0, position + len(kept) - len(samples))))
            samples[position : position + len(kept)] = kept
        return samples, stream.rate


def ranges(length: int, rate: int) -> list[tuple[int, int]]:
    """In any order: overlapping, far apart in both directions, and over the end."""
    generator = np.random.default_rng(1)
    firsts = [0, 5, rate, rate // 2, 20 * rate, 29 * rate, 3 * rate, *generator.integers(0, length, 7).tolist()]
    return [(first, first + int(generator.integers(1, 2 * rate))) for first in [*firsts, length - 7, length + 7]]


@pytest.mark.parametrize("new_rate", [None, 7000])
@pytest.mark.parametrize("name", SOUGHT | FORWARD)
def test_ranges_in_any_order_equal_decoding_all(folder: Path, name: str, new_rate: int | None) -> None:
    start = 0.37
    expected, rate = decoded(folder / name, start)
    expected = resample(expected, rate, new_rate or rate)
    with SoundReader(folder / name, start, new_rate) as reader:
        for first, stop in ranges(len(expected), reader.rate):
            np.testing.assert_array_equal(reader.read(first, stop), expected[first:stop])
        np.testing.assert_array_equal(reader.read(), expected)


@pytest.mark.parametrize("name", ["pcm.mov", "aac.mp4"])
def test_an_unusual_rate_gives_the_same_bits_in_any_order(folder: Path, name: str) -> None:
    rate = 7001  # FFmpeg's filter has 1,024 phases, so that this one's are rounded
    with SoundReader(folder / name, rate=rate) as reader:
        expected = reader.read()
        for first, stop in ranges(len(expected), rate):
            np.testing.assert_array_equal(reader.read(first, stop), expected[first:stop])
        np.testing.assert_allclose(expected, resample(*decoded(folder / name, 0.0), rate), atol=1e-5)


@pytest.mark.parametrize("name", SOUGHT)
def test_a_range_far_ahead_costs_few_pieces(folder: Path, name: str) -> None:
    pieces: list[None] = []
    with SoundReader(folder / name, on_piece=lambda: pieces.append(None)) as reader:
        reader.read()
        every = len(pieces)
        pieces.clear()
        for first in (20 * RATE, 2 * RATE, (7 + round(MIN_SKIPPED_S)) * RATE):
            reader.read(first, first + RATE // 10)
    assert len(pieces) < 3 * every * 7 / SECONDS  # a container leads to a few seconds before


def test_little_is_kept_of_what_was_read(folder: Path) -> None:
    with SoundReader(folder / "aac.mp4") as reader:
        for first in range(0, SECONDS * RATE, RATE):
            reader.read(first, first + RATE)
            assert reader._kept.size < 2 * RATE
            assert reader._kept.base is None or reader._kept.base.size < 3 * RATE


@pytest.mark.parametrize("name", ["flac.mkv", "aac.mp4"])
def test_damage_is_met_in_the_same_ranges_in_every_order(folder: Path, tmp_path: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    path = tmp_path / name
    generator = np.random.default_rng(0)
    for where in (len(data) // 3, len(data) // 2):
        data[where : where + 400] = generator.bytes(400)
    path.write_bytes(data)
    firsts = np.arange(0, SECONDS * RATE, RATE)

    def outcomes(order: np.ndarray) -> dict[int, bytes | None]:
        found: dict[int, bytes | None] = {}
        with SoundReader(path) as reader:
            for first in order.tolist():
                try:
                    found[first] = reader.read(first, first + RATE).tobytes()
                except DecodeFailure:
                    found[first] = None
        return found

    assert outcomes(generator.permutation(firsts)) == outcomes(firsts) == outcomes(firsts[::-1])


@pytest.mark.parametrize("lacking", [0, 1, 2])
@pytest.mark.parametrize("first_frame", [0, 9])
def test_a_range_knows_how_much_is_missing_at_its_end(lacking: int, first_frame: int) -> None:
    """Also if all of it lies after the end of the sound."""
    rate, length = 1000, 130
    times = (first_frame + np.arange(3)) / 100
    needed = round(times[-1] * rate) + length
    sound = np.ones(needed - round(SLACK * rate) - lacking + 1, np.float32)
    begin, end = sound_range(rate, times, length)
    part = sound[begin:end]
    if lacking > 1:
        with pytest.raises(DecodeFailure, match="too-short"):
            windows(part, rate, times, length, begin)
    else:
        np.testing.assert_array_equal(windows(part, rate, times, length, begin), windows(sound, rate, times, length))


def test_a_source_reads_its_sound_by_ranges(tmp_path: Path) -> None:
    sound = np.sin(np.arange(2 * RATE) / 7).astype(np.float32) / 2
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, np.zeros((20, 16, 16, 3), np.uint8), 10.0, sound, RATE)
    source = open_source(str(tmp_path))
    whole = source.sound(0, 8000, 0, 1 << 30)
    assert len(whole) >= 15000
    for first in (4000, 100, 9000):
        for video in (0, 1):
            np.testing.assert_array_equal(source.sound(video, 8000, first, first + 700), whole[first : first + 700])
