"""The speed of Tabletop: frames per second on one core by frame size, and what the parts of a clip cost.

    python -m tokenreel.benchmarks.speed.tabletop [--clips 31]

Goal: at least 1,000 frames of 64 x 64 per second. Measured in processor time, so that other work on the machine matters
little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

from tokenreel.data.tabletop.clip import TabletopClip, TabletopConfig, tabletop_clip

SIZES = (64, 128, 256)
GOAL = 1000  # frames per second at 64 x 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=31)
    clips = parser.parse_args().clips
    for size in SIZES:
        config = TabletopConfig(height=size, width=size)
        motion = median_seconds(partial(tabletop_clip, config), clips)
        frames = drawing_seconds(config, lambda clip: clip.frames, clips)
        flow = drawing_seconds(config, lambda clip: clip.flow, clips)
        rate = config.frames / (motion + frames)
        print(  # noqa: T201
            f"{size} x {size}, {config.frames} frames: {rate:,.0f} frames per second"
            + (f" (goal {GOAL:,})" if size == 64 else "")
            + f"; per clip: motion {1e3 * motion:.1f} ms, pixels {1e3 * frames:.1f} ms, flow {1e3 * flow:.1f} ms"
        )


def drawing_seconds(config: TabletopConfig, draw: Callable[[TabletopClip], object], clips: int) -> float:
    """Median processor time of `draw` on clips whose motion is already computed."""
    prepared = [tabletop_clip(config, index) for index in range(clips)]
    return median_seconds(lambda index: draw(prepared[index]), clips)


def median_seconds(work: Callable[[int], object], count: int) -> float:
    seconds = []
    for index in range(count):
        started = time.process_time()
        work(index)
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
