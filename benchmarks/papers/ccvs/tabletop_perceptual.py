"""Trains the small perceptual network on frames of Tabletop, and prints the settings that use it.

    python -m tokenreel.benchmarks.papers.ccvs.tabletop_perceptual OUT.safetensors [--steps 600] [--seed 0]

It learns to classify the content of each cell of its coarsest grid: nothing, a kind of object, or the arm's tip. The
features of every block are then scaled to a mean of 1 on Tabletop, so that a weight of the loss is meaningful (as Gatys
et al. 2016 do with VGG). It replaces VGG where ladders are measured without ImageNet weights; name it when reporting.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.data.pixels import to_model
from tokenreel.data.tabletop.clip import TabletopClip, TabletopConfig, tabletop_clip
from tokenreel.data.tabletop.scene import KINDS, TIP_RADIUS
from tokenreel.decoders.losses.perceptual import TABLETOP, PerceptualNetwork

SIZE = 64  # pixels
BATCH = 16  # frames, each from another clip
CLIPS = 1024  # to choose from
GRID = SIZE // 2 ** (len(TABLETOP) - 1)  # cells along each edge
NOTHING, TIP = 0, len(KINDS) + 1  # labels; the kinds are between them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    network, scores = train_tabletop_perceptual(arguments.steps, arguments.seed)
    save_file(network.state_dict(), arguments.out)
    digest = hashlib.sha256(arguments.out.read_bytes()).hexdigest()
    accuracies = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    print(f"accuracy on cells of held-out frames: {accuracies}")  # noqa: T201
    print(f"training.perceptual={{network: tabletop, file: {arguments.out}, sha256: {digest}}}")  # noqa: T201


def train_tabletop_perceptual(steps: int, seed: int) -> tuple[PerceptualNetwork, dict[str, float]]:
    """The trained network, and its accuracy on held-out frames by kind of cell."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    network, head = PerceptualNetwork(TABLETOP), nn.Conv2d(TABLETOP[-1][0], TIP + 1, 1)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        frames, labels = batch(generator, range(CLIPS), BATCH)
        optimizer.zero_grad()
        functional.cross_entropy(head(network(frames)[-1]), labels).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        frames, labels = batch(generator, range(CLIPS, 2 * CLIPS), 128)
        scores = accuracy(head(network(frames)[-1]).argmax(1), labels)
        normalise(network, frames)
    return network, scores


def batch(generator: np.random.Generator, clips: range, frames: int) -> tuple[Tensor, Tensor]:
    """First frames [N, 3, H, W] in [-1, 1] of as many clips, and labels [N, GRID, GRID] of their cells."""
    config = TabletopConfig(height=SIZE, width=SIZE, frames=1)
    chosen = [tabletop_clip(config, int(index)) for index in generator.choice(clips, frames, replace=False)]
    images = to_model(np.stack([clip.frames for clip in chosen]))[:, :, 0]
    return images, torch.from_numpy(np.stack([cell_labels(clip) for clip in chosen]))


def cell_labels(clip: TabletopClip) -> np.ndarray:
    """int64 [GRID, GRID]: the label of what covers the centre of each cell."""
    y, x = (np.mgrid[:GRID, :GRID] + 0.5) / GRID
    things = [
        (KINDS.index(kind) + 1, kind.radius, position)
        for kind, position in zip(clip.scene.kinds, clip.scene.positions, strict=True)
    ]
    labels = np.full((GRID, GRID), NOTHING)
    for label, radius, (centre_x, centre_y) in [*things, (TIP, TIP_RADIUS, clip.state[0])]:
        labels[np.hypot(x - centre_x, y - centre_y) < radius] = label
    return labels


def accuracy(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Fractions of the cells of objects, of the tip, and of nothing that are classified correctly."""
    masks = {"objects": (labels != NOTHING) & (labels != TIP), "tip": labels == TIP, "nothing": labels == NOTHING}
    return {name: float((predicted == labels)[cells].float().mean()) for name, cells in masks.items()}


def normalise(network: PerceptualNetwork, frames: Tensor) -> None:
    """Scales the last conv of each block to features with a mean of 1 on `frames`, and the next conv inversely."""
    convs = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    last = [conv for tap in network.outputs if isinstance(conv := network.features[tap - 1], nn.Conv2d)]
    for conv, features in zip(last, network(frames), strict=True):
        scale = features.mean()
        conv.weight /= scale
        conv.bias /= scale
        for after in convs[convs.index(conv) + 1 :][:1]:
            after.weight *= scale


if __name__ == "__main__":
    main()
