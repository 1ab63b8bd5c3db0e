"""Runs in a folder, each made once and after those that it depends on, several processes in parallel.

The scores of a run are in a JSON file of its name; a run that has one is not repeated, and an interrupted training
continues from its checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tokenreel.pipelines.common.progress import silence

PIXELS = 64  # along an edge of a frame

Scores = dict[str, float]


@dataclass(frozen=True)
class Sizes:
    """How much is trained, on how much, and how much is judged."""

    tokenizer_steps: int
    prior_steps: int
    videos: int  # of two clips each; a tenth of them is held out
    frames: int  # of a clip
    clips: int  # whose reconstructions are judged
    starts: int  # first frames that samples go on from
    samples: int  # of each start, where nothing else is given

    @property
    def data(self) -> str:
        return f"tabletop:?videos={self.videos}&frames={2 * self.frames}&size={PIXELS}"


@dataclass(frozen=True)
class Setup:
    """Where the runs lie, and what they have in common."""

    out: Path
    sizes: Sizes
    seed: int

    def path(self, run: Run) -> Path:
        sizes = self.sizes
        return self.out / f"{sizes.videos}-videos-of-{2 * sizes.frames}-seed{self.seed}" / run.name(sizes)

    def scores(self, run: Run) -> Scores | None:
        """What the run scored; None: it is not finished."""
        path = self._file(run)
        return json.loads(path.read_text()) if path.exists() else None

    def keep(self, run: Run, scores: Scores) -> None:
        part = self._file(run).with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(scores) + "\n")
        part.replace(self._file(run))

    def _file(self, run: Run) -> Path:
        path = self.path(run)
        return path.with_name(f"{path.name}.json")


class Run:
    """A member is a frozen dataclass, so that equal runs are one."""

    @property
    @abstractmethod
    def needs(self) -> Sequence[Run]:
        """What must be finished before."""

    @abstractmethod
    def name(self, sizes: Sizes) -> str:
        """Path below the folder of the data; of sizes it says those that the run depends on."""

    @abstractmethod
    def make(self, setup: Setup) -> Scores: ...


def finish(setup: Setup, runs: Iterable[Run], jobs: int, tell: Callable[[str], None]) -> None:
    """Makes what of `runs`, and of all that they need, is not finished: `jobs` side by side, each when it can be.

    Raises what the runs raise, once those beside the failed one have ended.
    """
    waiting = [run for run in _with_needs(runs) if setup.scores(run) is None]
    total, started = len(waiting), time.perf_counter()
    os.environ["OMP_NUM_THREADS"] = "1"  # what is spawned inherits it
    with ProcessPoolExecutor(jobs, get_context("spawn"), silence) as pool:
        running = dict[Future[Scores], Run]()
        while waiting or running:
            able = [run for run in waiting if all(setup.scores(need) is not None for need in run.needs)]
            for run in able[: jobs - len(running)]:
                waiting.remove(run)
                running[pool.submit(run.make, setup)] = run
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                setup.keep(run, future.result())
                minutes, made = (time.perf_counter() - started) / 60, total - len(waiting) - len(running)
                tell(f"{made} of {total} after {minutes:.1f} min: {run.name(setup.sizes)}")


def _with_needs(runs: Iterable[Run]) -> list[Run]:
    """Each once, after what it needs."""
    found = dict[Run, None]()
    for run in runs:
        found |= dict.fromkeys((*_with_needs(run.needs), run))
    return list(found)
