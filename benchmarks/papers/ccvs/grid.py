"""Runs in a folder, each executed once and after those that it depends on, several processes in parallel.

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
    """Training steps, and the numbers of videos, frames, clips and samples."""

    tokenizer_steps: int
    prior_steps: int
    videos: int  # of two clips each; a tenth of them is held out
    frames: int  # of a clip
    clips: int  # whose reconstructions are scored
    starts: int  # first frames that samples continue
    samples: int  # for each start, where nothing else is given

    @property
    def data(self) -> str:
        return f"tabletop:?videos={self.videos}&frames={2 * self.frames}&size={PIXELS}"


@dataclass(frozen=True)
class Setup:
    """The folder of the runs, their sizes and their seed."""

    out: Path
    sizes: Sizes
    seed: int

    def path(self, run: Run) -> Path:
        sizes = self.sizes
        return self.out / f"{sizes.videos}-videos-of-{2 * sizes.frames}-seed{self.seed}" / run.name(sizes)

    def scores(self, run: Run) -> Scores | None:
        """Scores of the run, None if it is not finished."""
        path = self._file(run)
        return json.loads(path.read_text()) if path.exists() else None

    def save(self, run: Run, scores: Scores) -> None:
        partial = self._file(run).with_suffix(".part")
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(scores) + "\n")
        partial.replace(self._file(run))

    def _file(self, run: Run) -> Path:
        path = self.path(run)
        return path.with_name(f"{path.name}.json")


class Run:
    """Subclasses are frozen dataclasses, so that equal runs are executed once."""

    @property
    @abstractmethod
    def needs(self) -> Sequence[Run]:
        """Runs that must be finished before this one."""

    @abstractmethod
    def name(self, sizes: Sizes) -> str:
        """Path below the folder of the data; it contains the sizes that the run depends on."""

    @abstractmethod
    def execute(self, setup: Setup) -> Scores: ...


def finish(setup: Setup, runs: Iterable[Run], jobs: int, log: Callable[[str], None]) -> None:
    """Executes `runs` and all that they need, unless finished: `jobs` in parallel, each after its dependencies.

    Raises what a run raises, after the runs beside it have ended.
    """
    waiting = [run for run in _with_dependencies(runs) if setup.scores(run) is None]
    total, started = len(waiting), time.perf_counter()
    os.environ["OMP_NUM_THREADS"] = "1"  # spawned processes inherit it
    with ProcessPoolExecutor(jobs, get_context("spawn"), silence) as pool:
        running = dict[Future[Scores], Run]()
        while waiting or running:
            ready = [run for run in waiting if all(setup.scores(need) is not None for need in run.needs)]
            for run in ready[: jobs - len(running)]:
                waiting.remove(run)
                running[pool.submit(run.execute, setup)] = run
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                setup.save(run, future.result())
                minutes, done = (time.perf_counter() - started) / 60, total - len(waiting) - len(running)
                log(f"{done} of {total} after {minutes:.1f} min: {run.name(setup.sizes)}")


def _with_dependencies(runs: Iterable[Run]) -> list[Run]:
    """`runs` and what they need, each once and after its dependencies."""
    ordered = dict[Run, None]()
    for run in runs:
        ordered |= dict.fromkeys((*_with_dependencies(run.needs), run))
    return list(ordered)
