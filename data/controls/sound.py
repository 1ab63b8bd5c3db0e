"""Sound of clips: resampling, and a window for each frame."""

from __future__ import annotations

import numpy as np

from tokenreel.data.controls.sound_reader import resampled
from tokenreel.data.video.probe import DecodeFailure

SLACK = 0.1  # seconds that may be missing at the end: AAC codes 1,024 samples at a time; muxers drop partial frames


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """float32 [n] at `rate` samples per second -> float32 [m] at `new_rate`, low-pass filtered if that is lower."""
    if rate == new_rate or len(samples) == 0:
        return samples
    return np.concatenate(list(resampled(iter([samples]), rate, new_rate)))


def sound_range(rate: int, times: np.ndarray, length: int) -> tuple[int, int]:
    """The first sample and the one after the last of what `windows` needs for these frames."""
    first = np.round(times * rate).astype(np.int64)
    # SLACK earlier, to see how much is missing where the sound ends before the last window.
    return max(0, int(first.min()) - round(SLACK * rate) - 1), int(first.max()) + length


def windows(samples: np.ndarray, rate: int, times: np.ndarray, length: int, begin: int = 0) -> np.ndarray:
    """float32 [n] at `rate` samples per second, of which the first is number `begin` of the sound, and the times [T] of
    frames in seconds -> float32 [T, length].

    A sound that ends up to SLACK seconds early is padded with silence. Raises DecodeFailure if it ends before that.
    """
    first = np.round(times * rate).astype(np.int64)
    end = begin + len(samples)
    missing = int(first.max()) + length - end
    if missing > SLACK * rate:
        raise DecodeFailure(
            "too-short",
            f"its sound lasts {'' if len(samples) else 'at most '}{end / rate:.2f} s, its frames need "
            f"{first.max() / rate:.2f} s and {length / rate:.2f} s for the last one",
        )
    padded = np.pad(samples, (0, max(0, missing)))
    return padded[first[:, None] - begin + np.arange(length)]
