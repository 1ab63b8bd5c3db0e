"""How well a reconstruction matches its video: PSNR, SSIM, and PSNR where something moves, beside the mean image's.

Works on videos alone; knows nothing of tokenizers. PSNR and SSIM are torchmetrics'. Protocol: pixels of 8 bits, as a
video file holds them; PSNR and SSIM are averaged over frames (what most papers report); MSE and the figures on moving
pixels are pooled over all pixels, before the logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

MOVING = 16  # of 255: a pixel moves in a clip if some channel's range over the clip's frames is larger


class ReconstructionScores:
    """Collects clips; `compute` gives the scores over all of them. Memory does not grow with the clips.

    `mean_image` float [H, W, 3] in 0..255 (see `mean_image`) is the baseline that knows the scene and no video.
    """

    def __init__(self, mean_image: np.ndarray) -> None:
        self._mean_image = torch.from_numpy(mean_image).double()
        self._psnr = PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3), reduction="elementwise_mean")
        self._ssim = StructuralSimilarityIndexMeasure(data_range=1.0)
        self._all, self._moving, self._baseline = _SquaredError(), _SquaredError(), _SquaredError()

    def update(self, real: np.ndarray, reconstructed: np.ndarray) -> None:
        """Both uint8 [T, H, W, 3], or [N, T, H, W, 3] for several clips at once."""
        if real.shape != reconstructed.shape or real.dtype != np.uint8 or reconstructed.dtype != np.uint8:
            raise ValueError(
                f"real ({real.dtype} {real.shape}) and reconstructed ({reconstructed.dtype} {reconstructed.shape}) "
                "must be uint8 of one shape"
            )
        clips = real.ndim == 5
        for one, other in zip(
            real if clips else real[None], reconstructed if clips else reconstructed[None], strict=True
        ):
            self._update_clip(torch.from_numpy(one), torch.from_numpy(other))

    def _update_clip(self, real: Tensor, reconstructed: Tensor) -> None:
        frames = [clip.movedim(-1, 1).float() / 255 for clip in (reconstructed, real)]
        self._psnr.update(*frames)
        self._ssim.update(*frames)
        moving = moving_pixels(real)
        error = (reconstructed.double() - real) ** 2
        self._all.add(error)
        self._moving.add(error[:, moving])
        self._baseline.add(((self._mean_image - real) ** 2)[:, moving])

    def compute(self) -> dict[str, float]:
        """psnr and gain in dB, ssim in [-1, 1], mse of pixels in [0, 1]; NaN where nothing moved."""
        moving, baseline = self._moving.psnr(), self._baseline.psnr()
        return {
            "psnr": float(self._psnr.compute()),
            "ssim": float(self._ssim.compute()),
            "mse": self._all.mean() / 255**2,
            "psnr_moving": moving,
            "psnr_moving_mean_image": baseline,
            "gain_over_mean_image": moving - baseline,
            "moving_share": self._moving.count / max(self._all.count, 1),
        }


def moving_pixels(clip: Tensor) -> Tensor:
    """uint8 [T, H, W, C] -> bool [H, W]: where the clip changes by more than MOVING between any two of its frames."""
    low, high = clip.aminmax(dim=0)
    return (high.int() - low.int()).amax(-1) > MOVING


def mean_image(clips: Iterable[np.ndarray]) -> np.ndarray:
    """uint8 clips [T, H, W, 3] -> float64 [H, W, 3] in 0..255, the mean over all their frames.

    Take training clips: the mean of the clips that are scored would know something of them. Raises ValueError without
    any clip.
    """
    total, frames = 0.0, 0
    for clip in clips:
        total = total + clip.sum(axis=0, dtype=np.float64)
        frames += len(clip)
    if not frames:
        raise ValueError("clips is empty: a mean image needs at least one frame")
    return np.asarray(total / frames)


class _SquaredError:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, squared: Tensor) -> None:
        """Squared differences of pixels in 0..255."""
        self.total += float(squared.sum())
        self.count += squared.numel()

    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    def psnr(self) -> float:
        """dB; infinite without any error, NaN without any pixel."""
        mean = self.mean()
        return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)
