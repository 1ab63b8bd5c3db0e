"""Whether two checkouts give the same results: fixed small jobs through the command line, and what they produced.

    PYTHONPATH=A/src python -m tokenreel.benchmarks.same_results record before.json
    PYTHONPATH=B/src python -m tokenreel.benchmarks.same_results record after.json
    python -m tokenreel.benchmarks.same_results compare before.json after.json

`record` runs every tiny system at 32 x 32 pixels on one thread, which takes two minutes of a core: videos, controls,
tokenizers, caches, priors, samples, decoded and generated videos. It keeps hashes of bytes and numbers of losses and
scores, without the names beside them, so that renamed files, modules, settings and metrics compare equal. Values that
depend on time are omitted, and so are the hashes of configurations and caches, which cover names. `compare` prints the
differences and exits with 1 if there are any. Both records must come from one machine: another processor rounds
differently.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # read when torch and numpy are imported

import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch

from tokenreel.benchmarks.jobs.runner import JobRunner
from tokenreel.benchmarks.jobs.systems import SYSTEMS


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--work", type=click.Path(path_type=Path), help="New folder for the jobs. Default: a temporary one.")
def record(out: Path, work: Path | None) -> None:
    """Run all jobs and write what they produced into OUT."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = JobRunner((work or Path(folder)).absolute())
        jobs.run("videos", "videos")
        for system in SYSTEMS:
            started, before = time.perf_counter(), len(jobs.entries)
            system(jobs)
            seconds = time.perf_counter() - started
            click.echo(f"{system.__name__}: {len(jobs.entries) - before} entries, {seconds:.0f} s")
    about = {"torch": torch.__version__, "processor": torch.backends.cpu.get_cpu_capability(), "os": platform.machine()}
    out.write_text(json.dumps({"about": about, "entries": jobs.entries}, indent=1, sort_keys=True) + "\n")


@main.command()
@click.argument("a", type=click.Path(path_type=Path, exists=True))
@click.argument("b", type=click.Path(path_type=Path, exists=True))
def compare(a: Path, b: Path) -> None:
    """Print the entries of A and B that differ."""
    first, second = (json.loads(path.read_text()) for path in (a, b))
    if first["about"] != second["about"]:
        click.echo(f"recorded under different conditions: {first['about']} and {second['about']}")
    first, second = first["entries"], second["entries"]
    differ = [name for name in sorted(first | second) if first.get(name) != second.get(name)]
    for name in differ:
        click.echo(f"{name}{difference(first.get(name), second.get(name))}")
    click.echo(f"{len(first | second) - len(differ)} entries are equal, {len(differ)} differ")
    sys.exit(bool(differ))


def difference(a: Any, b: Any) -> str:
    """Describes where two entries first differ; None is a missing entry."""
    if not (isinstance(a, list) and isinstance(b, list) and len(a) == len(b)):
        return f": {a} -> {b}"
    index = next(i for i, (one, other) in enumerate(zip(a, b, strict=True)) if one != other)
    return f"[{index}]{difference(a[index], b[index])}"


if __name__ == "__main__":
    main()
