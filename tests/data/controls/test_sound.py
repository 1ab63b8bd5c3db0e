"""Sound is read at its time and the requested rate, one window for each frame."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest

from tokenreel.data.controls.sound import SLACK, resample, windows
from tokenreel.data.controls.sound_reader import SoundReader
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.data.video.writer import write_video
from tokenreel.errors import DataError


def write_wav(path: Path, samples: np.ndarray, rate: int) -> Path:
    """Writes `samples`, [n] or [n, channels], with 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def read_sound(file: Path | io.BytesIO, start: float = 0.0) -> tuple[np.ndarray, int]:
    """All samples at the file's own rate, and that rate."""
    with SoundReader(file, start) as reader:
        return reader.read(), reader.rate


def tone(rate: int, seconds: float, hertz: float = 311.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def test_a_wav_is_read_and_its_channels_are_mixed(tmp_path: Path) -> None:
    left, right = tone(11025, 0.37), tone(11025, 0.37, 523.0)
    samples, rate = read_sound(write_wav(tmp_path / "a.wav", left, 11025))
    assert rate == 11025
    np.testing.assert_allclose(samples, left, atol=1e-4)
    samples, _ = read_sound(write_wav(tmp_path / "b.wav", np.stack([left, right], 1), 11025))
    np.testing.assert_allclose(samples, (left + right) / 2, atol=1e-4)


def test_the_sound_of_a_video_keeps_its_time(tmp_path: Path) -> None:
    """AAC starts with priming samples; an offset of one sample would give a correlation of 0.99."""
    clip = tabletop_clip(TabletopConfig(height=16, width=16, frames=17), 3)
    write_video(tmp_path / "a.mp4", clip.frames, 10.0, clip.sound, clip.sample_rate)
    for start in (0.0, 0.3):
        samples, rate = read_sound(tmp_path / "a.mp4", start)
        true = clip.sound[round(start * rate) :]
        assert rate == clip.sample_rate
        assert np.corrcoef(samples[: len(true)], true)[0, 1] > 0.999


def test_resampling_keeps_a_tone_and_its_time() -> None:
    low = resample(tone(16000, 0.5), 16000, 2000)
    np.testing.assert_allclose(low[50:-50], tone(2000, 0.5)[50:-50], atol=1e-3)
    assert len(low) == 1000
    assert np.abs(resample(tone(16000, 0.5, 1500.0), 16000, 2000)[50:-50]).max() < 1e-2  # beyond half of the new rate


def test_each_frame_has_the_samples_from_its_own_time() -> None:
    samples = np.arange(97, dtype=np.float32)
    result = windows(samples, 100, np.array([0.0, 0.11, 0.3]), 7)
    np.testing.assert_array_equal(result, np.array([0, 11, 30])[:, None] + np.arange(7))


def test_only_a_little_may_be_missing_at_the_end() -> None:
    rate, times = 1000, np.array([0.0, 0.5])
    lacking = round(SLACK * rate)
    short = np.ones(600 - lacking, np.float32)
    np.testing.assert_array_equal(windows(short, rate, times, 100)[1], np.repeat([1.0, 0.0], [100 - lacking, lacking]))
    with pytest.raises(DecodeFailure, match=r"too-short: its sound lasts 0\.50 s, its frames need 0\.50 s and 0\.10 s"):
        windows(short[:-1], rate, times, 100)


def test_a_file_without_sound_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((3, 16, 16, 3), np.uint8), 10.0)
    with pytest.raises(DecodeFailure, match="no-sound: the file has no sound stream"):
        read_sound(tmp_path / "a.mp4")
    with pytest.raises(DecodeFailure, match="unreadable: not a container of a known sound format"):
        read_sound(io.BytesIO(b"nothing of the kind" * 100))
    with pytest.raises(DataError, match="No such file"):
        read_sound(tmp_path / "gone.wav")
