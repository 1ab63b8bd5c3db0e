"""The runs of LVT's grid in a folder: each trained once, several processes in parallel.

Finished runs are lines of OUT/results.jsonl and are not repeated; interrupted trainings continue from a checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tokenreel.benchmarks.papers.lvt.setup import Run, Sizes, Task
from tokenreel.pipelines.common.progress import silence

Scores = dict[Run, dict[str, float]]


@dataclass(frozen=True)
class Grid:
    """The runs below `out`. Runs of other sizes have folders of their own."""

    out: Path
    sizes: Sizes

    def finish(self, runs: Iterable[Run], jobs: int, log: Callable[[str], None]) -> Scores:
        """Scores of `runs` and their tokenizers; trains those that are not finished, `jobs` in parallel.

        Raises what a training raises, after the trainings beside it have ended.
        """
        runs = list(dict.fromkeys(runs))
        tokenizers = list(dict.fromkeys(run.tokenizer for run in runs))
        self.out.mkdir(parents=True, exist_ok=True)
        for stage in (tokenizers, [run for run in runs if run.variant is not None]):
            finished = self._read()
            self._train([run for run in stage if self._name(run) not in finished], finished, jobs, log)
        finished = self._read()
        return {run: finished[self._name(run)] for run in (*tokenizers, *runs)}

    def folder(self, run: Run) -> Path:
        return self.out / self._name(run)

    def cache(self, run: Run) -> Path:
        return self.folder(run).parent / "tokens.zarr"

    def _name(self, run: Run) -> str:
        """Path of the run's folder below `out`."""
        sizes, variant = self.sizes, run.variant
        tokenizer = f"{sizes.videos}-videos-{sizes.tokenizer_steps}-steps/nc{run.codebooks}-seed{run.seed}"
        if variant is None:
            return f"{tokenizer}/tokenizer"
        return f"{tokenizer}/{variant.name}-{sizes.prior_steps}-steps-of-{sizes.clips(variant.subscale)}"

    def _read(self) -> dict[str, dict[str, float]]:
        """Scores by the name of the run. Ignores a line that a crash truncated."""
        path = self.out / "results.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return {name: scores for line in lines if line.endswith("}\n") for name, scores in json.loads(line).items()}

    def _train(
        self, runs: list[Run], finished: Mapping[str, dict[str, float]], jobs: int, log: Callable[[str], None]
    ) -> None:
        started, tasks = time.perf_counter(), [self._task(run, finished) for run in runs]
        for number, (run, scores) in enumerate(_in_processes(tasks, jobs), 1):
            with (self.out / "results.jsonl").open("a") as file:
                file.write(json.dumps({self._name(run): scores}) + "\n")
            minutes = (time.perf_counter() - started) / 60
            log(f"{number} of {len(runs)} after {minutes:.1f} min: {self._name(run)}, {scores['seconds']:.0f} s")

    def _task(self, run: Run, finished: Mapping[str, dict[str, float]]) -> Task:
        frequent = 0 if run.variant is None else int(finished[self._name(run.tokenizer)]["frequent_codes"])
        return Task(run, self.sizes, self.folder(run), self.cache(run), frequent)


def _in_processes(tasks: Iterable[Task], jobs: int) -> Iterator[tuple[Run, dict[str, float]]]:
    """Trains `jobs` tasks at a time and yields the scores of each when it ends. No task waits in the pool's queue, so
    that none is started after an error or an interrupt.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # spawned processes inherit it
    with ProcessPoolExecutor(jobs, get_context("spawn"), silence) as pool:
        running = set[Future[tuple[Run, dict[str, float]]]]()
        for task in tasks:
            if len(running) == jobs:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
            running.add(pool.submit(task.train))
        yield from (future.result() for future in as_completed(running))
