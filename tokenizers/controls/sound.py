"""Sound: the short-time spectrum of each frame's interval of sound, in patches that are vector-quantized.

CCVS section 4 (AudioSet-Drums): 8 x 2 tokens per frame from a spectrogram of 64 bands x 16 spectra, by a convolutional
VQ autoencoder with 1,024 codes in the public code. Here a patch is quantized directly, by a codebook of its band.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.controls.inputs import ControlInput, SoundSource
from tokenreel.errors import ConfigError, DataError
from tokenreel.tokenizers.controls.base import ControlEncoder, DatasetInfo
from tokenreel.tokenizers.controls.kmeans import kmeans_codebook
from tokenreel.tokenizers.quantizers.nearest import nearest_indices

MAX_VECTORS = 1 << 16  # of a band that its codebook is fitted on, evenly spaced


@dataclass(frozen=True)
class SoundConfig:
    type: ClassVar[str] = "sound"

    codebook_size: int = 256  # K, of each band's codebook
    bands: int = 8  # h; of equal width, from 0 to half the rate
    slices: int = 2  # w, intervals of a frame's time
    spectra: int = 2  # in each slice
    rate: int = 16000  # samples per second; frequencies above half of it are removed
    window: int = 512  # samples of a spectrum, a power of two
    floor_db: float = -80.0  # relative to a full-scale sine; lower levels count as silence
    frame_rate: float | None = None  # frames per second; None: that of the data set

    def __post_init__(self) -> None:
        if min(self.codebook_size, self.bands, self.slices, self.spectra, self.rate) < 1 or self.codebook_size < 2:
            raise ConfigError(f"codebook_size must be at least 2, bands, slices, spectra, rate at least 1, got {self}")
        if self.window < 2 or self.window & (self.window - 1) or self.window // 2 % self.bands:
            raise ConfigError(
                f"window (={self.window}) must be a power of two, and half of it a multiple of bands (={self.bands})"
            )
        if not self.floor_db < 0 or (self.frame_rate is not None and not self.frame_rate > 0):
            raise ConfigError(
                f"floor_db (={self.floor_db}) must be below 0 and frame_rate (={self.frame_rate}) above 0"
            )

    @property
    def bins(self) -> int:
        """Number of frequencies of a spectrum, without the constant."""
        return self.window // 2


class SoundEncoder(ControlEncoder):
    """bands x slices tokens per frame, [T, bands, slices, 1].

    Each band has a codebook, shared by all slices and frames, which is much more accurate than one codebook for all
    bands. A prior knows the band of every position.
    """

    config_class = SoundConfig
    config: SoundConfig
    codebooks: Tensor  # [bands, K, bins of a band * spectra], decibels above the floor

    def __init__(self, config: SoundConfig) -> None:
        super().__init__(config)
        width = config.bins // config.bands * config.spectra
        self.register_buffer("codebooks", torch.zeros(config.bands, config.codebook_size, width))

    @classmethod
    def resolve_defaults(cls, config: SoundConfig, dataset: DatasetInfo) -> SoundConfig:
        if config.frame_rate is not None:
            return config
        if dataset.frame_rate is None:
            raise DataError("a control of type 'sound' needs frames with times: append ?fps=RATE to the data's path")
        return dataclasses.replace(config, frame_rate=dataset.frame_rate)

    @classmethod
    def needs_dataset(cls, config: SoundConfig) -> bool:
        return config.frame_rate is None

    @property
    def source(self) -> SoundSource:
        if self.config.frame_rate is None:
            raise ConfigError("frame_rate (=None) must be set, or resolved by fitting the controls")
        samples = max(self.config.window, round(self.config.rate / self.config.frame_rate))
        return SoundSource(self.config.rate, samples, self.config.frame_rate)

    @property
    def codebook_size(self) -> int:
        return self.config.codebook_size

    def grid(self, frames: int) -> tuple[int, int, int]:
        return frames, self.config.bands, self.config.slices

    def fit(self, clip_inputs: Sequence[ControlInput]) -> None:
        patches = torch.cat(
            [self._patches(self.spectrum(clip_input)) for clip_input in clip_inputs]
        )  # [T, bands, slices, d]
        for band, codebook in enumerate(self.codebooks):
            vectors = patches[:, band].flatten(0, 1)
            stride = math.ceil(len(vectors) / MAX_VECTORS)
            codebook.copy_(kmeans_codebook(vectors[::stride].contiguous(), self.codebook_size))

    def encode(self, clip_input: ControlInput) -> np.ndarray:
        patches = self._patches(self.spectrum(clip_input))
        frames, bands, slices, _ = patches.shape
        indices = [nearest_indices(patches[:, band].flatten(0, 1), self.codebooks[band]) for band in range(bands)]
        return torch.stack(indices).reshape(bands, frames, slices, 1).movedim(0, 1).numpy()

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """The quantized spectrum, as `spectrum` returns it."""
        chosen = [self.codebooks[band][torch.from_numpy(indices[:, band, :, 0])] for band in range(self.config.bands)]
        patches = torch.stack(chosen, 1).unflatten(3, (-1, self.config.spectra))  # [T, bands, slices, bins, spectra]
        return patches.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2).numpy()

    def spectrum(self, clip_input: ControlInput) -> np.ndarray:
        """float32 [T, samples] -> float32 [T, bins, slices * spectra]: decibels above the floor, 0 for silence.

        Every spectrum lies within its frame's interval, so that no token depends on later sound.
        """
        sound = np.asarray(clip_input, dtype=np.float64)
        if sound.ndim != 2 or sound.shape[1] != self.source.samples or not np.isfinite(sound).all():
            raise DataError(
                f"a sound must be {self.source.samples} finite samples per frame, got shape {list(sound.shape)}"
            )
        window = np.hanning(self.config.window + 1)[:-1]
        first = np.linspace(0, sound.shape[1] - len(window), self.config.slices * self.config.spectra).astype(np.int64)
        pieces = sound[:, first[:, None] + np.arange(len(window))] * window  # [T, spectra, window]
        amplitude = np.abs(np.fft.rfft(pieces))[..., 1:] / (window.sum() / 2)  # 1 for a full-scale sine
        decibels = 20 * np.log10(np.maximum(amplitude, 10 ** (self.config.floor_db / 20)))
        return (decibels - self.config.floor_db).swapaxes(1, 2).astype(np.float32)

    def error_sums(self, clip_input: ControlInput, decoded: Any) -> Mapping[str, float]:
        spectrum = self.spectrum(clip_input)
        difference = np.square(spectrum - decoded, dtype=np.float64)
        return {
            "squared": float(difference.sum()),
            "power": float(np.square(spectrum, dtype=np.float64).sum()),
            "count": spectrum.size,
        }

    def error_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """`relative_error`: the lost fraction of the spectrum's squared decibels above the floor; 0 for silence."""
        relative = sums["squared"] / sums["power"] if sums["power"] else 0.0
        return {"rms_error_db": math.sqrt(sums["squared"] / sums["count"]), "relative_error": relative}

    def _patches(self, spectrum: np.ndarray) -> Tensor:
        """[T, bins, slices * spectra] -> [T, bands, slices, bins of a band * spectra]"""
        patches = torch.from_numpy(spectrum).unflatten(2, (self.config.slices, self.config.spectra))
        return patches.unflatten(1, (self.config.bands, -1)).permute(0, 1, 3, 2, 4).flatten(3)
