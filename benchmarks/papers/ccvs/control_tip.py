"""Estimates the position of the arm's tip in decoded video, and from its positions the motion programme of the clip.

Two small networks, trained on the states of Tabletop's training clips: one locates the tip in single decoded frames,
the other classifies the sequence of its positions. T frames, N clips.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.data.pixels import to_model

BATCH = 64  # frames, or trajectories
NOISE = 0.015  # standard deviation of the noise on trajectories, against overfitting to the few that there are


class TipFinder(nn.Module):
    """Frames [N, 3, H, W] in [-1, 1] -> [N, 2], x and y of the tip as fractions of the width and height: the mean of a
    probability map.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1),
        )  # fmt: skip

    def forward(self, frames: Tensor) -> Tensor:
        logits = self.layers(frames)[:, 0]
        height, width = logits.shape[1:]
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        return logits.flatten(1).softmax(1) @ torch.stack([x.flatten(), y.flatten()], 1)


class TrajectoryClassifier(nn.Module):
    """Trajectories [N, T, 2] -> logits [N, classes]."""

    def __init__(self, frames: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(4, 48, 3, padding=1), nn.ReLU(), nn.Conv1d(48, 48, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(48 * frames, 64), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(64, classes),
        )  # fmt: skip

    def forward(self, trajectories: Tensor) -> Tensor:
        speed = 8 * torch.diff(trajectories, dim=1, prepend=trajectories[:, :1])  # scaled to the size of positions
        return self.layers(torch.cat([trajectories, speed], 2).transpose(1, 2))


class TipModel:
    """Both networks, trained."""

    def __init__(self, videos: np.ndarray, rows: np.ndarray, tips: np.ndarray, classes: np.ndarray, steps: int) -> None:
        """`tips` float32 [N, T, 2] and `classes` int64 [N] are those of the training clips; `videos` uint8
        [n, T, H, W, 3] are decoded clips, those of `rows` [n]. The classifier learns from the trajectories found in
        `videos` and from all true ones.
        """
        torch.manual_seed(0)
        self.finder = TipFinder()
        frames, positions = videos.reshape(-1, *videos.shape[2:]), torch.from_numpy(tips[rows]).flatten(0, 1)
        for batch in _training(self.finder, len(frames), steps):
            (self.finder(_pictures(frames[batch.numpy()])) - positions[batch]).abs().sum(1).mean().backward()
        self.classifier = TrajectoryClassifier(videos.shape[1], int(classes.max()) + 1)
        trajectories = torch.from_numpy(np.concatenate([tips, self.tips(videos)]))
        labels = torch.from_numpy(np.concatenate([classes, classes[rows]]))
        for batch in _training(self.classifier, len(trajectories), steps):
            noisy = trajectories[batch] + NOISE * torch.randn(len(batch), *trajectories.shape[1:])
            functional.cross_entropy(self.classifier(noisy), labels[batch]).backward()

    @torch.inference_mode()
    def tips(self, videos: np.ndarray) -> np.ndarray:
        """Tip positions, float32 [N, T, 2], in `videos` uint8 [N, T, H, W, 3]."""
        return torch.stack([self.finder(_pictures(video)) for video in videos]).numpy()

    @torch.inference_mode()
    def classes(self, videos: np.ndarray) -> np.ndarray:
        """The recognised classes of `videos`, int64 [N]."""
        return np.asarray(self.classifier(torch.from_numpy(self.tips(videos))).argmax(1))


def _training(network: nn.Module, examples: int, steps: int) -> Iterator[Tensor]:
    """Yields the rows of each step's batch; the caller computes gradients before it asks for the next. Afterwards the
    network is in evaluation mode.
    """
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        yield torch.randint(examples, (BATCH,))
        optimizer.step()
        schedule.step()
    network.eval()


def _pictures(frames: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W]"""
    return to_model(frames).transpose(0, 1).contiguous()
