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
BATCH = 16  # frames, each of a clip of its own
CLIPS = 1024  # to draw from
GRID = SIZE // 2 ** (len(TABLETOP) - 1)  # cells a side
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
    shares = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    print(f"cells labelled rightly, of frames not trained on: {shares}")  # noqa: T201
    print(f"training.perceptual={{network: tabletop, file: {arguments.out}, sha256: {digest}}}")  # noqa: T201


def train_tabletop_perceptual(steps: int, seed: int) -> tuple[PerceptualNetwork, dict[str, float]]:
    """The network, and how well its tasks were learnt, on frames that it was not trained on."""
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    network, head = PerceptualNetwork(TABLETOP), nn.Conv2d(TABLETOP[-1][0], TIP + 1, 1)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        frames, labels = batch(draw, range(CLIPS), BATCH)
        optimizer.zero_grad()
        functional.cross_entropy(head(network(frames)[-1]), labels).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        frames, labels = batch(draw, range(CLIPS, 2 * CLIPS), 128)
        scores = hits(head(network(frames)[-1]).argmax(1), labels)
        normalise(network, frames)
    return network, scores


def batch(draw: np.random.Generator, clips: range, frames: int) -> tuple[Tensor, Tensor]:
    """First frames [N, 3, H, W] in [-1, 1] of as many clips, and labels [N, GRID, GRID] of their cells."""
    config = TabletopConfig(height=SIZE, width=SIZE, frames=1)
    drawn = [tabletop_clip(config, int(index)) for index in draw.choice(clips, frames, replace=False)]
    pictures = to_model(np.stack([clip.frames for clip in drawn]))[:, :, 0]
    return pictures, torch.from_numpy(np.stack([cell_labels(clip) for clip in drawn]))


def cell_labels(clip: TabletopClip) -> np.ndarray:
    """int64 [GRID, GRID]: what covers the middle of each cell."""
    y, x = (np.mgrid[:GRID, :GRID] + 0.5) / GRID
    things = [
        (KINDS.index(kind) + 1, kind.radius, position)
        for kind, position in zip(clip.scene.kinds, clip.scene.positions, strict=True)
    ]
    labels = np.full((GRID, GRID), NOTHING)
    for label, radius, (across, down) in [*things, (TIP, TIP_RADIUS, clip.state[0])]:
        labels[np.hypot(x - across, y - down) < radius] = label
    return labels


def hits(found: Tensor, labels: Tensor) -> dict[str, float]:
    """Shares of the cells of a thing, of the tip, and of nothing that are labelled rightly."""
    where = {"objects": (labels != NOTHING) & (labels != TIP), "tip": labels == TIP, "nothing": labels == NOTHING}
    return {name: float((found == labels)[cells].float().mean()) for name, cells in where.items()}


def normalise(network: PerceptualNetwork, frames: Tensor) -> None:
    """Scales the last conv of each block until its features have a mean of 1 on `frames`, and the next conv back."""
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
