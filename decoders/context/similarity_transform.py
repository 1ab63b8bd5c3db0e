"""Random rotations, zooms and shifts of a picture. Knows no networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class SimilarityLimits(Protocol):
    """How far each part goes at most."""

    @property
    def zoom(self) -> float:
        """Magnification is from 1 - zoom to 1 + zoom."""

    @property
    def rotation(self) -> float:
        """To either side, degrees."""

    @property
    def translation(self) -> float:
        """To either side, as a share of the width and of the height."""


@dataclass(frozen=True)
class Similarity:
    """Rotation, zoom and translation about the middle: where in the frame each pixel of a view comes from."""

    zoom: Tensor  # [N], above 1 magnifies
    angle: Tensor  # [N], radians
    shift: Tensor  # [N, 2], pixels (x, y)
    middle: Tensor  # [1, 2, 1, 1], pixels (x, y)

    def apply(self, places: Tensor) -> Tensor:
        """Places [N or 1, 2, H, W] in the view -> [N, 2, H, W] in the frame, both in pixels."""
        turned = _turn(places - self.middle, self.angle) / self.zoom.view(-1, 1, 1, 1)
        return turned + self.middle + self.shift[:, :, None, None]

    def invert(self, places: Tensor) -> Tensor:
        """Places in the frame -> in the view."""
        centred = places - self.middle - self.shift[:, :, None, None]
        return _turn(centred * self.zoom.view(-1, 1, 1, 1), -self.angle) + self.middle


def _turn(vectors: Tensor, angle: Tensor) -> Tensor:
    # Written out: as a matrix product, places would lose a tenth of a pixel where TF32 is allowed.
    x, y = vectors.unbind(1)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], 1)


def draw_similarity(
    shape: tuple[int, int, int],
    limits: SimilarityLimits,
    generator: torch.Generator | None,
    device: torch.device,
) -> Similarity:
    """`shape` (N, H, W). Each part is uniform in its range, translation along each axis on its own."""
    count, height, width = shape
    sides = torch.tensor([width, height], dtype=torch.float32, device=device)
    largest = math.radians(limits.rotation)
    zoom = uniform((count,), 1 - limits.zoom, 1 + limits.zoom, generator, device)
    angle = uniform((count,), -largest, largest, generator, device)
    shift = uniform((count, 2), -limits.translation, limits.translation, generator, device) * sides
    return Similarity(zoom, angle, shift, ((sides - 1) / 2).view(1, 2, 1, 1))


def uniform(
    shape: tuple[int, ...], low: float, high: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, device=device)
