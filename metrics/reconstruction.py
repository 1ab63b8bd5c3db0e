"""Quality of reconstructed videos: PSNR, SSIM, and PSNR on moving pixels compared with that of the mean image.

Protocol: 8-bit pixels, as in a video file; PSNR and SSIM (torchmetrics') are averaged over frames, as most papers do;
MSE and the metrics on moving pixels are pooled over all pixels, before the logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

MIN_CHANGE = 16  # of 255: a pixel is moving in a clip if the range of a channel over the clip's frames is larger
MEAN_IMAGE_CLIPS = 64  # training clips, enough for the mean image of a static camera


class ReconstructionScores:
    """Accumulates over clips; `compute` returns the scores. Memory does not grow with the clips.

    `mean_image` float [H, W, 3] in 0..255 (see `mean_image`) is the baseline: the scene without any motion.
    """

    def __init__(self, mean_image: np.ndarray) -> None:
        self._mean_image = torch.from_numpy(mean_image).double()
        # Of a launched group one process may score alone: torchmetrics would wait for the others when it computes.
        own: dict[str, Any] = {"data_range": 1.0, "sync_on_compute": False}
        self._psnr = PeakSignalNoiseRatio(**own, dim=(1, 2, 3), reduction="elementwise_mean")
        self._ssim = StructuralSimilarityIndexMeasure(**own)
        self._all, self._moving, self._baseline = _SquaredError(), _SquaredError(), _SquaredError()

    def update(self, real: np.ndarray, reconstructed: np.ndarray) -> None:
        """Adds a clip, both uint8 [T, H, W, 3], or several, [N, T, H, W, 3]. Raises ValueError for other arrays."""
        if real.shape != reconstructed.shape or real.dtype != np.uint8 or reconstructed.dtype != np.uint8:
            raise ValueError(
                f"real ({real.dtype} {real.shape}) and reconstructed ({reconstructed.dtype} {reconstructed.shape}) "
                "must be uint8 of the same shape"
            )
        if real.ndim == 4:
            real, reconstructed = real[None], reconstructed[None]
        for clip, other in zip(real, reconstructed, strict=True):
            self._update_clip(torch.from_numpy(clip), torch.from_numpy(other))

    def _update_clip(self, real: Tensor, reconstructed: Tensor) -> None:
        frames = [clip.movedim(-1, 1).float() / 255 for clip in (reconstructed, real)]
        self._psnr.update(*frames)
        self._ssim.update(*frames)
        moving = moving_pixels(real)
        error = (reconstructed.double() - real) ** 2
        self._all.add(error)
        self._moving.add(error[:, moving])
        self._baseline.add(((self._mean_image - real) ** 2)[:, moving])

    def merge(self, other: ReconstructionScores) -> None:
        """Adds the clips of another one with the same mean image."""
        self._psnr.merge_state(other._psnr)
        self._ssim.merge_state(other._ssim)
        for own, others in (
            (self._all, other._all),
            (self._moving, other._moving),
            (self._baseline, other._baseline),
        ):
            own.merge(others)

    def compute(self) -> dict[str, float]:
        """PSNR and gain in dB, SSIM in [-1, 1], MSE of pixels in [0, 1]; NaN if no pixel is moving."""
        moving, baseline = self._moving.psnr(), self._baseline.psnr()
        return {
            "psnr": float(self._psnr.compute()),
            "ssim": float(self._ssim.compute()),
            "mse": self._all.mean() / 255**2,
            "psnr_moving": moving,
            "psnr_moving_mean_image": baseline,
            "gain_over_mean_image": moving - baseline,
            "moving_fraction": self._moving.count / max(self._all.count, 1),
        }


def moving_pixels(clip: Tensor) -> Tensor:
    """uint8 [T, H, W, C] -> bool [H, W]: whether a channel differs by over MIN_CHANGE between any two frames."""
    low, high = clip.aminmax(dim=0)
    return (high.int() - low.int()).amax(-1) > MIN_CHANGE


def mean_image(clips: Iterable[np.ndarray]) -> np.ndarray:
    """uint8 clips [T, H, W, 3] -> float64 [H, W, 3] in 0..255, the mean over all their frames.

    Use training clips, not the scored ones. Raises ValueError if there are no clips.
    """
    total, frames = 0.0, 0
    for clip in clips:
        total = total + clip.sum(axis=0, dtype=np.float64)
        frames += len(clip)
    if not frames:
        raise ValueError("clips is empty: a mean image needs at least one frame")
    return np.asarray(total / frames)


class _SquaredError:
    """Accumulated squared differences of pixels in 0..255."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, squared: Tensor) -> None:
        self.total += float(squared.sum())
        self.count += squared.numel()

    def merge(self, other: _SquaredError) -> None:
        self.total += other.total
        self.count += other.count

    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    def psnr(self) -> float:
        """dB; infinite if there is no error, NaN if there are no pixels."""
        mean = self.mean()
        return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)
