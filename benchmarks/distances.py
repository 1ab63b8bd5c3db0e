"""Frame and temporal distance of damaged true clips, of what a generator may do wrong, as Markdown; and their cost.

    python -m tokenreel.benchmarks.distances [--clips 256]

Clips of Tabletop, 16 frames of 32 x 32, against as many others, which are damaged or not. 95 % intervals over clips.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from tokenreel.benchmarks.papers.generators import labelled_clips
from tokenreel.benchmarks.papers.lvt.tables import header, row
from tokenreel.metrics.baselines import cross_fade, nearest_key_frame
from tokenreel.metrics.bootstrap import bootstrap
from tokenreel.metrics.distances import relative_distance
from tokenreel.metrics.random_features import frame_features, temporal_features

FRAMES, PIXELS = 16, 32
RNG = np.random.default_rng(0)


def blurred(clips: np.ndarray) -> np.ndarray:
    """The mean of 3 x 3 pixels."""
    pictures = torch.from_numpy(clips).movedim(-1, 2).flatten(0, 1).float()
    means = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), "replicate"), 3, 1)
    return means.round().byte().unflatten(0, clips.shape[:2]).movedim(2, -1).numpy()


def noisy(clips: np.ndarray, deviation: float) -> np.ndarray:
    return np.rint(clips + RNG.normal(0, deviation, clips.shape)).clip(0, 255).astype(np.uint8)


def shuffled(clips: np.ndarray) -> np.ndarray:
    order = RNG.permuted(np.tile(np.arange(FRAMES), (len(clips), 1)), axis=1)
    return np.take_along_axis(clips, order[..., None, None, None], 1)


DAMAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they are": lambda clips: clips,
    "blurred over 3 x 3 pixels": blurred,
    "noise of deviation 4, of 255": lambda clips: noisy(clips, 4),
    "noise of deviation 16": lambda clips: noisy(clips, 16),
    "a tenth darker": lambda clips: (0.9 * clips).astype(np.uint8),
    "frames in random order": shuffled,
    "backwards": lambda clips: clips[:, ::-1],
    "a frame of each repeated": lambda clips: clips[:, [FRAMES // 2] * FRAMES],
    "half as fast": lambda clips: clips[:, np.arange(FRAMES) // 2],
    "cross-fade from the first to the last frame": lambda clips: cross_fade(clips[:, 0], clips[:, -1], FRAMES),
    "the nearer one of these two": lambda clips: nearest_key_frame(clips[:, 0], clips[:, -1], FRAMES),
    "a quarter of them, four times each": lambda clips: clips[np.arange(len(clips)) // 4],
    "a sixteenth, 16 times each": lambda clips: clips[np.arange(len(clips)) // 16],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=256)
    count = parser.parse_args().clips
    torch.set_num_threads(1)
    true, others = (labelled_clips(first, count, FRAMES, PIXELS).frames for first in (0, count))
    started = time.process_time()
    frames, clips = frame_features(true), temporal_features(true)
    seconds = time.process_time() - started
    lines = [*header("other clips", "frame distance", "temporal distance")]
    for name, damage in DAMAGES.items():
        damaged = damage(others)
        lines.append(row(name, distance(frames, frame_features(damaged)), distance(clips, temporal_features(damaged))))
    print(*lines, f"\n{seconds:.1f} s of one core for the features of {count} clips.", sep="\n")  # noqa: T201


def distance(true: np.ndarray, generated: np.ndarray) -> str:
    interval = bootstrap(relative_distance, true, generated)
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


if __name__ == "__main__":
    main()
