"""Memory and open files of two processes over time: `tokenize-dataset` again and again, and the training reader.

Both are flat if the line through their samples rises less than the bounds. The first quarter is left out: allocators
and caches fill in it.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tokenreel.benchmarks.jobs.runner import tokenreel
from tokenreel.benchmarks.reliability.project import FRAMES, SIZE, Project
from tokenreel.benchmarks.reliability.tally import Outcome, Tally
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.clips import ClipReader
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.order import SampleOrder
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.spec import Framing
from tokenreel.pipelines.common.plans import plan_of

MAX_MIB = 24  # by which memory may rise in the whole time
MAX_FILES = 1
SAMPLES = 200


@dataclass
class Use:
    """What a process and its children used, sampled over time."""

    mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def sample(self, process: int) -> None:
        memory, files = zip(*(_use(pid) for pid in _family(process)), strict=True)
        self.mib.append(sum(memory))
        self.files.append(sum(files))

    def growth(self) -> tuple[float, float]:
        """Of memory in MiB and of open files, by the line through all samples but the first quarter."""
        return _rise(self.mib), _rise(self.files)


def run(minutes: float, folder: Path) -> list[Tally]:
    project = Project(folder / "project").make()
    videos = folder / "videos"
    tokenreel(["tabletop", str(videos), "--videos", "12", f"--frames={5 * FRAMES}", f"--size={SIZE}"])
    project.data = str(videos)
    works = {"tokenize-dataset": lambda: tokenize_again_and_again(project, folder), "reader": lambda: read(project)}
    return [soak(name, work, minutes) for name, work in works.items()]


def soak(name: str, work: Callable[[], None], minutes: float) -> Tally:
    """Runs `work`, which never ends, in a child."""
    tally, use = Tally(f"soak: {name}, {minutes:g} minutes"), Use()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        work()
        os._exit(1)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        time.sleep(60 * minutes / SAMPLES)
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            tally.add(Outcome.TRACEBACK, "it ended by itself")
            return tally
        use.sample(child)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    memory, files = use.growth()
    flat = memory < MAX_MIB and files < MAX_FILES
    tally.peak_mib = round(max(use.mib))
    what = f"memory rose by {memory:.1f} MiB, open files by {files:.1f}, in {len(use.mib)} samples"
    tally.add(Outcome.HARMLESS if flat else Outcome.LOST, what)
    return tally


def tokenize_again_and_again(project: Project, folder: Path) -> None:
    """Into a new cache each time, of videos that a worker decodes."""
    while True:
        out = folder / "soak.zarr"
        tokenreel(project.tokenize(out, "--clip-stride", "1", "--allow-collapsed"))
        shutil.rmtree(out)


def read(project: Project) -> None:
    """Random clips of videos through a decode worker, as training reads them, and random rows of a cache."""
    config = DataConfig(Framing(SIZE, SIZE), FRAMES, 1)
    cache = TokenCache.open(project.cache)
    with DecodePool(project.data, workers=1) as pool:
        plan = plan_of(pool, config)
        clips = ClipReader(plan, pool, memory_gb=0.001)  # so that clips are read again and again
        order, step = SampleOrder(np.arange(len(plan)), seed=0), 0
        while True:
            clips.read(order.rows(8 * step, 8))
            clips.prefetch(order.rows(8 * step + 8, 8))
            cache.read(np.random.default_rng(step).integers(cache.row_count, size=64))
            step += 1


def _family(process: int) -> list[int]:
    """A process and its descendants that are still there."""
    found = [process]
    for pid in found:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except OSError:
            continue
    return found


def _use(pid: int) -> tuple[float, int]:
    """Resident memory in MiB and open files; nothing of a process that has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0.0, 0


def _rise(values: list[float] | list[int]) -> float:
    """How much the line through the last three quarters rises over them."""
    kept = np.array(values[len(values) // 4 :], dtype=float)
    return float(np.polyfit(np.arange(len(kept)), kept, 1)[0] * len(kept)) if len(kept) > 1 else 0.0
