"""Sees in a decoded video where the arm's tip is, and from its track which motion programme the clip runs.

Two small networks, trained on decoded clips whose truth Tabletop knows: one finds the tip in single frames, the other
tells the class from 16 of its places. They know no codes and no prior. T frames, N clips.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.data.pixels import to_model

FOUND = 3  # x, y and opening of the gripper
OPENING = 0.1  # weight of its error beside that of x and y, which are shares of the picture
FRAMES_AT_ONCE = 64
SHIFT = 0.015  # deviation of the noise on tracks that classes are learnt from, so that few are not learnt by heart


class TipFinder(nn.Module):
    """Frames [N, 3, H, W] in [-1, 1] -> [N, FOUND]: the mean of the places where it sees the tip."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.here, self.opening = nn.Conv2d(32, 1, 1), nn.Linear(32, 1)

    def forward(self, frames: Tensor) -> Tensor:
        features = self.features(frames)
        height, width = features.shape[2:]
        share = self.here(features).flatten(1).softmax(1)  # [N, h w]
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        seen = (features.flatten(2) * share[:, None]).sum(2)
        return torch.cat([share @ torch.stack([x.flatten(), y.flatten()], 1), self.opening(seen)], 1)


class TrackClassifier(nn.Module):
    """Tracks [N, T, FOUND] -> logits [N, classes]."""

    def __init__(self, frames: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(2 * FOUND, 48, 3, padding=1), nn.ReLU(), nn.Conv1d(48, 48, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(48 * frames, 64), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(64, classes),
        )  # fmt: skip

    def forward(self, tracks: Tensor) -> Tensor:
        speed = 8 * torch.diff(tracks, dim=1, prepend=tracks[:, :1])  # about as large as places
        return self.layers(torch.cat([tracks, speed], 2).transpose(1, 2))


class Watcher:
    """Both networks, trained."""

    def __init__(self, videos: np.ndarray, tips: np.ndarray, classes: np.ndarray, steps: int) -> None:
        """`videos` uint8 [N, T, H, W, 3] show `tips` [N, T, FOUND] and are of `classes` int [N]."""
        torch.manual_seed(0)
        self.finder = TipFinder()
        frames, places = videos.reshape(-1, *videos.shape[2:]), torch.from_numpy(tips).flatten(0, 1)
        for rows in _training(self.finder, len(frames), steps):
            error = (self.finder(_pictures(frames[rows.numpy()])) - places[rows]).abs().mean(0)
            (error[:2].sum() + OPENING * error[2]).backward()
        self.classifier = TrackClassifier(videos.shape[1], int(classes.max()) + 1)
        tracks, labels = torch.from_numpy(self.tips(videos)), torch.from_numpy(classes)
        for rows in _training(self.classifier, len(tracks), steps):
            noisy = tracks[rows] + SHIFT * torch.randn(len(rows), *tracks.shape[1:])
            functional.cross_entropy(self.classifier(noisy), labels[rows]).backward()

    @torch.inference_mode()
    def tips(self, videos: np.ndarray) -> np.ndarray:
        """uint8 [N, T, H, W, 3] -> float32 [N, T, FOUND]"""
        return torch.stack([self.finder(_pictures(video)) for video in videos]).numpy()

    @torch.inference_mode()
    def classes(self, videos: np.ndarray) -> np.ndarray:
        """int64 [N]"""
        return np.asarray(self.classifier(torch.from_numpy(self.tips(videos))).argmax(1))


def _training(network: nn.Module, examples: int, steps: int) -> Iterator[Tensor]:
    """Rows of each step's batch; whoever takes them leaves gradients. The network is in evaluation mode afterwards."""
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        yield torch.randint(examples, (FRAMES_AT_ONCE,))
        optimizer.step()
        schedule.step()
    network.eval()


def _pictures(frames: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W]"""
    return to_model(frames).transpose(0, 1).contiguous()
