"""The rate of train-tokenizer on one video of three hours, relative to that on as much of it in short files.

    python -m tokenreel.benchmarks.speed.long_video_training [--minutes 180] [--steps 200] [--rounds 3]

Goal: at least 0.7 times the rate. Both have a keyframe every 10 seconds, which is the length of a short file, and take
turns; one process decodes. The tokenizer is small, so that decoding counts. Planning is timed apart: the first time,
and with the probes that are kept beside the run.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from tokenreel.benchmarks.speed.long_video_seek import CODECS, FRAMES, GROUP, minute_of_frames, write_long
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.spec import Framing
from tokenreel.data.video.probe_store import probes_beside
from tokenreel.pipelines.commands import train_tokenizer
from tokenreel.pipelines.common.plans import plan_of
from tokenreel.pipelines.requests.training import TrainTokenizerRequest

GOAL = 0.7
MAX_SHORT = 600  # files; more clips than a run reads
SETTINGS = (
    *("data.validation=0", "tokenizer.hidden=32", "tokenizer.residual=32", "training.tokenizer.batch=8"),
    *("training.tokenizer.precision=fp32", "training.checkpoint_every=100000", "training.sample_every=100000"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=180)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        long, short = write_both(folder, flags.minutes)
        for what, data in (("long", long), ("short", short)):
            first, again = (
                planning_seconds(data, folder / f"{what}-plan"),
                planning_seconds(data, folder / f"{what}-plan"),
            )
            print(f"{what}: planned in {first:.2f} s, again in {again:.2f} s", flush=True)  # noqa: T201
        rates: dict[Path, list[float]] = {long: [], short: []}
        for number in range(flags.rounds):
            for data, found in rates.items():
                found.append(clips_per_second(data, folder / f"run-{data.stem}-{number}", flags.steps))
        ratio = statistics.median(a / b for a, b in zip(rates[long], rates[short], strict=True))
        shown = {data.stem: [round(rate, 1) for rate in found] for data, found in rates.items()}
        print(f"clips per second {shown}: {ratio:.2f} times (goal {GOAL})")  # noqa: T201


def write_both(folder: Path, minutes: int) -> tuple[Path, Path]:
    """A long video, and a folder of short ones with the same frames."""
    pixels, short = minute_of_frames(), folder / "short"
    long = write_long(folder, CODECS["h264"], pixels, minutes)
    short.mkdir()
    for part in range(FRAMES // GROUP):
        (folder / "part").mkdir()
        made = write_long(folder / "part", CODECS["h264"], pixels[part * GROUP : (part + 1) * GROUP], 1)
        for copy in range(min(minutes, MAX_SHORT * GROUP // FRAMES)):
            shutil.copyfile(made, short / f"{copy:04d}-{part}.mp4")
        shutil.rmtree(folder / "part")
    return long, short


def planning_seconds(data: Path, run: Path) -> float:
    started = time.perf_counter()
    with DecodePool(str(data), 1, probes_beside(run)) as pool:
        plan_of(pool, DataConfig(Framing(64, 64), 16))
    return time.perf_counter() - started


def clips_per_second(data: Path, out: Path, steps: int) -> float:
    request = TrainTokenizerRequest(
        preset="gpt-tabletop-tiny", assignments=SETTINGS, data=str(data), out=out, steps=steps, device="cpu"
    )
    return float(train_tokenizer.run(request)["clips_per_second"])


if __name__ == "__main__":
    main()
