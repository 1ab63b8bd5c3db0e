"""Trains a classifier of Tabletop's motion programmes, which stands for the networks of the inception score.

    python -m tokenreel.benchmarks.papers.dvd_gan.class_score OUT.safetensors [--frames 12] [--size 32]

The class score of generated clips is the fraction that it assigns to the class that they were generated for; that of
held-out clips is the largest that is meaningful. The classifier is a small 3D convolutional network on frames and their
differences, trained on clips from their first frame on: about a minute and a half of one core. OUT is not trained again
where it exists; a classifier is for one length and one size of clips.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.benchmarks.papers.generators import LabelledClips, labelled_clips
from tokenreel.data.pixels import to_model
from tokenreel.data.tabletop.clip import CLASSES

CLIPS, STEPS, BATCH = 6000, 500, 64  # training clips are Tabletop's first ones
LEARNING_RATE = 3e-3
WIDTH = 12  # channels of the first layer
DIFFERENCE_GAIN = 4.0  # differences are several times smaller than pixels
HELD_OUT, FIRST_HELD_OUT = 400, 2_000_000  # clips of which the accuracy is measured; other tables score those before


class Classifier(nn.Module):
    """Clips [B, 3, T, H, W] in [-1, 1] -> logits [B, classes]."""

    def __init__(self) -> None:
        super().__init__()
        strides = (((6, WIDTH), (1, 2, 2)), ((WIDTH, 2 * WIDTH), (1, 2, 2)), ((2 * WIDTH, 4 * WIDTH), (2, 2, 2)))
        layers = [layer for (inputs, outputs), stride in strides for layer in _block(inputs, outputs, stride)]
        # Positions are kept in part: where a clip moves in time and space tells classes apart.
        self.layers = nn.Sequential(*layers, *_block(4 * WIDTH, 4 * WIDTH, (1, 1, 1)), nn.AdaptiveAvgPool3d((6, 2, 2)))
        self.head = nn.Linear(4 * WIDTH * 6 * 2 * 2, len(CLASSES))

    def forward(self, video: Tensor) -> Tensor:
        inputs = torch.cat([video[:, :, :-1], DIFFERENCE_GAIN * video.diff(dim=2)], 1)
        logits: Tensor = self.head(self.layers(inputs).flatten(1))
        return logits

    @torch.inference_mode()
    def predict(self, clips: np.ndarray) -> np.ndarray:
        """uint8 [N, T, H, W, 3] -> int64 [N], indices into CLASSES."""
        parts = (clips[first : first + BATCH] for first in range(0, len(clips), BATCH))
        return np.concatenate([self(to_model(part)).argmax(1).numpy() for part in parts])

    def score(self, clips: LabelledClips) -> float:
        """Fraction of the clips whose class it recognises."""
        return float((self.predict(clips.frames) == clips.labels).mean())


def trained(path: Path, frames: int, size: int, clips: int = CLIPS, steps: int = STEPS) -> Classifier:
    """The classifier of clips of this length and size that is saved at `path`; trains and saves it if there is none."""
    described = {"frames": str(frames), "size": str(size)}
    classifier = Classifier()
    if path.exists():
        with safe_open(path, "pt") as file:
            if (found := file.metadata()) != described:
                raise SystemExit(f"{path} is a classifier of other clips ({found}): use another path")
        load_model(classifier, path)
    else:
        torch.manual_seed(0)
        classifier = _train(labelled_clips(0, clips, frames, size), steps)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        save_model(classifier, str(partial), described)
        partial.replace(path)
    return classifier.eval()


def _train(clips: LabelledClips, steps: int) -> Classifier:
    classifier = Classifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(clips.frames), (BATCH,))
        logits = classifier(to_model(clips.frames[rows.numpy()]))
        optimizer.zero_grad()
        functional.cross_entropy(logits, torch.from_numpy(clips.labels)[rows], label_smoothing=0.05).backward()
        optimizer.step()
        schedule.step()
    return classifier


def _block(inputs: int, outputs: int, stride: tuple[int, int, int]) -> list[nn.Module]:
    convolution = nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm3d(outputs), nn.ReLU()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--size", type=int, default=32)
    options = parser.parse_args()
    classifier = trained(options.out, options.frames, options.size)
    clips = labelled_clips(FIRST_HELD_OUT, HELD_OUT, options.frames, options.size)
    print(f"accuracy on {HELD_OUT} held-out clips: {classifier.score(clips):.3f}")  # noqa: T201
    for label, name in enumerate(CLASSES):
        rows = clips.labels == label
        score = classifier.score(LabelledClips(clips.frames[rows], clips.labels[rows]))
        print(f"  {name}: {score:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
