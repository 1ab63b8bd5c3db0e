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
from typing import Generic, Protocol, TypeVar

from tokenreel.pipelines.common.progress import silence

Scores = dict[str, float]


class DataSizes(Protocol):
    """The sizes of all runs of a setup."""

    @property
    def folder(self) -> str:
        """Name of the folder of the runs on these data."""


SizesT = TypeVar("SizesT", bound=DataSizes)


@dataclass(frozen=True)
class Setup(Generic[SizesT]):
    """The folder of the runs, their sizes and their seed."""

    out: Path
    sizes: SizesT
    seed: int

    def path(self, run: Run[SizesT]) -> Path:
        return self.out / f"{self.sizes.folder}-seed{self.seed}" / run.name(self.sizes)

    def scores(self, run: Run[SizesT]) -> Scores | None:
        """Scores of the run, None if it is not finished."""
        path = self._file(run)
        return json.loads(path.read_text()) if path.exists() else None

    def finished(self, run: Run[SizesT]) -> Scores:
        """Scores of a run that is finished."""
        scores = self.scores(run)
        assert scores is not None, f"{run} is not finished"
        return scores

    def save(self, run: Run[SizesT], scores: Scores) -> None:
        partial = self._file(run).with_suffix(".part")
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(scores) + "\n")
        partial.replace(self._file(run))

    def _file(self, run: Run[SizesT]) -> Path:
        path = self.path(run)
        return path.with_name(f"{path.name}.json")


class Run(Generic[SizesT]):
    """Subclasses are frozen dataclasses, so that equal runs are executed once."""

    @property
    @abstractmethod
    def needs(self) -> Sequence[Run[SizesT]]:
        """Runs that must be finished before this one."""

    @abstractmethod
    def name(self, sizes: SizesT) -> str:
        """Path below the folder of the data; it contains the sizes that the run depends on."""

    @abstractmethod
    def execute(self, setup: Setup[SizesT]) -> Scores: ...


def finish(setup: Setup[SizesT], runs: Iterable[Run[SizesT]], jobs: int, log: Callable[[str], None]) -> None:
    """Executes `runs` and all that they need, unless finished: `jobs` in parallel, each after its dependencies.

    Raises what a run raises, after the runs beside it have ended.
    """
    waiting = [run for run in _with_dependencies(runs) if setup.scores(run) is None]
    total, started = len(waiting), time.perf_counter()
    os.environ["OMP_NUM_THREADS"] = "1"  # spawned processes inherit it
    with ProcessPoolExecutor(jobs, get_context("spawn"), silence) as pool:
        running = dict[Future[Scores], Run[SizesT]]()
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


def _with_dependencies(runs: Iterable[Run[SizesT]]) -> list[Run[SizesT]]:
    """`runs` and what they need, each once and after its dependencies."""
    ordered = dict[Run[SizesT], None]()
    for run in runs:
        ordered |= dict.fromkeys((*_with_dependencies(run.needs), run))
    return list(ordered)
