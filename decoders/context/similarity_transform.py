"""Random similarity transforms: rotation, zoom and translation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tokenreel.sample_random import SampleRandom


class SimilarityLimits(Protocol):
    """Largest strength of each component."""

    @property
    def zoom(self) -> float:
        """Magnification is from 1 - zoom to 1 + zoom."""

    @property
    def rotation(self) -> float:
        """Degrees in either direction."""

    @property
    def translation(self) -> float:
        """Shift in either direction, as a fraction of the width and of the height."""


@dataclass(frozen=True)
class SimilarityTransform:
    """Rotation, zoom and translation about the centre: from pixels of a view to their origin in the frame."""

    zoom: Tensor  # [N], above 1 magnifies
    angle: Tensor  # [N], radians
    shift: Tensor  # [N, 2], pixels (x, y)
    center: Tensor  # [1, 2, 1, 1], pixels (x, y)

    def apply(self, points: Tensor) -> Tensor:
        """Points [N or 1, 2, H, W] in the view -> [N, 2, H, W] in the frame, both in pixels."""
        rotated = _rotate(points - self.center, self.angle) / self.zoom.view(-1, 1, 1, 1)
        return rotated + self.center + self.shift[:, :, None, None]

    def invert(self, points: Tensor) -> Tensor:
        """Points [N or 1, 2, H, W] in the frame -> [N, 2, H, W] in the view."""
        centered = points - self.center - self.shift[:, :, None, None]
        return _rotate(centered * self.zoom.view(-1, 1, 1, 1), -self.angle) + self.center


def _rotate(vectors: Tensor, angle: Tensor) -> Tensor:
    # Not as a matrix product, which would lose a tenth of a pixel where TF32 is allowed.
    x, y = vectors.unbind(1)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], 1)


def sample_similarity(height: int, width: int, limits: SimilarityLimits, random: SampleRandom) -> SimilarityTransform:
    """A transform for each of N frames; each component is uniform, translation independent by axis."""
    sides = torch.tensor([width, height], dtype=torch.float32, device=random.device)
    max_angle = math.radians(limits.rotation)
    zoom = uniform(random, 1 - limits.zoom, 1 + limits.zoom)
    angle = uniform(random, -max_angle, max_angle)
    shift = uniform(random, -limits.translation, limits.translation, 2) * sides
    return SimilarityTransform(zoom, angle, shift, ((sides - 1) / 2).view(1, 2, 1, 1))


def uniform(random: SampleRandom, low: float, high: float, *shape: int) -> Tensor:
    """Uniform random numbers in [low, high), [N, *shape]."""
    return low + (high - low) * random.rand(*shape)
