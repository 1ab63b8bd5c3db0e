"""SIGKILL, and the same again: the result is that of an undisturbed run, and nothing that was finished is lost.

Most kills are at a step of the file system (see `killing.py`), of a writer alone or of a whole command; others end
whole processes at any time, with and without their workers. Where a command refuses a folder that it has not finished,
that counts as noticed: the folder is removed, as the message says, and the command run once more.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenreel.benchmarks.reliability.killing import Ended, run_in_child
from tokenreel.benchmarks.reliability.project import Project
from tokenreel.benchmarks.reliability.tally import Outcome, Tally
from tokenreel.data.cache.documents import ROOT
from tokenreel.data.cache.manifest import Commit, commit_key, committed_shards
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.cache.verify import find_damage
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import CheckpointError, UserError
from tokenreel.pipelines.cli.program import run_command
from tokenreel.pipelines.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    step_of,
    write_checkpoint,
)
from tokenreel.pipelines.training.run_folder import read_metrics

Result = dict[str, Any]
NOT_FINISHED = "already exists and is not empty"
TIMED = ("second", "clips_per")  # in the names of what depends on the time


@dataclass(frozen=True)
class Work:
    """Something that is killed. All that it writes lies below the folder that its functions get."""

    name: str
    do: Callable[[Path], Any]  # may return an exit code
    result: Callable[[Path], Result]
    prepare: Callable[[Path], Any] = lambda folder: None
    loss: Callable[[Path], str | None] = lambda folder: None  # what a kill has lost, if anything


def run(share: float, folder: Path) -> list[Tally]:
    project = Project(folder / "project").make()
    writer = Work("a cache, by its writer", write_tokens, of_cache, loss=lost_shards)
    works = [writer, checkpoints(), *commands(project)]
    return [kill_at_steps(work, folder / "kills", share) for work in works]


def kill_at_steps(work: Work, folder: Path, share: float) -> Tally:
    """Kills at a share of all steps, spread evenly, and amid the writes among them."""
    tally = Tally(f"kills: {work.name}")
    undisturbed = _fresh(folder)
    work.prepare(undisturbed)
    ended = _do(work, undisturbed)
    assert ended.code == 0, f"{work.name}: {ended.output}"
    expected = work.result(undisturbed)
    points = [(step, False) for step in range(1, ended.steps + 1)]
    points = sorted([*points, *((step, True) for step in ended.halves)])
    count = max(1, round(share * len(points)))
    for step, half in (points[i * len(points) // count] for i in range(count)):
        outcome, what = _trial(work, _fresh(folder), expected, step, half)
        tally.add(outcome, f"step {step}{' with a power failure' if half else ''}: {what}")
    shutil.rmtree(folder)
    return tally


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _do(work: Work, folder: Path, kill_at: int | None = None, half: bool = False) -> Ended:
    return run_in_child(lambda: work.do(folder), folder, kill_at, half)


def _trial(work: Work, folder: Path, expected: Result, step: int, half: bool) -> tuple[Outcome, str]:
    work.prepare(folder)
    killed = _do(work, folder, step, half)
    if killed.code != -9:
        return Outcome.LOST, f"it was not killed, but ended with {killed.code}: {killed.output}"
    if lost := work.loss(folder):
        return Outcome.LOST, lost
    return judge(lambda: _do(work, folder), folder / "out", lambda: work.result(folder), expected)


def judge(again: Callable[[], Ended], out: Path, result: Callable[[], Result], expected: Result) -> tuple[Outcome, str]:
    """The outcome of running the same again."""
    outcome, ended = Outcome.HARMLESS, again()
    if ended.code != 0 and NOT_FINISHED in ended.output and not ended.traceback:
        shutil.rmtree(out)
        outcome, ended = Outcome.NOTICED, again()
    if ended.traceback:
        return Outcome.TRACEBACK, ended.output
    if ended.code != 0:
        return Outcome.LOST, f"it ended with {ended.code}: {ended.output}"
    try:
        found = result()
    except UserError as error:
        return Outcome.LOST, str(error)
    different = [key for key in expected.keys() | found.keys() if found.get(key) != expected.get(key)]
    return (Outcome.SILENT, f"another result: {different[:3]}") if different else (outcome, "")


# The writers alone.

SPEC = TokenSpec((StreamSpec("top", (2, 2, 3), 13), StreamSpec("video", (2, 3, 5), 70_001, 2)), 2, Framing(5, 7))


def write_tokens(folder: Path) -> None:
    random_codes, rows = np.random.default_rng(0), 260  # in shards of 16: nothing here is as small as possible
    tokens = {s.name: random_codes.integers(0, s.codebook_size, (rows, *s.shape)) for s in SPEC.streams}
    write_token_file(folder / "out", SPEC, tokens, "fingerprint", [{"id": str(row)} for row in range(rows)])


def of_cache(folder: Path) -> Result:
    cache = TokenCache.open(folder / "out")
    assert not find_damage(cache.path, cache.header, cache.shards)
    return {"cache_id": cache.cache_id, **of_files(folder / "out")}


def of_files(folder: Path) -> Result:
    """All files by their paths; none may be left over."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in _files(folder)}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def lost_shards(folder: Path) -> str | None:
    """Whatever is committed is there as it was committed."""
    out = folder / "out"
    if not (out / ROOT).exists():  # nothing is written yet
        return None
    try:
        cache = TokenCache.open(out, allow_partial=True)
        commits = [Commit.load(out, shard, cache.header) for shard in committed_shards(out, cache.header)]
    except UserError as error:
        return str(error)
    return next((f"{out / commit_key(c.shard)} names what is not there" for c in commits if not c.matches(out)), None)


def checkpoints() -> Work:
    """A third and a fourth checkpoint beside two that are there, of which one is pruned."""

    def checkpoint(step: int) -> Checkpoint:
        weight = torch.full((3, 5), float(step))
        return Checkpoint(step, {"network": {"weight": weight}, "optimizer": {"m": -weight}}, {"order": {"step": step}})

    def prepare(folder: Path) -> None:
        for step in (3, 5):
            write_checkpoint(folder / "out", checkpoint(step), keep=2)

    def do(folder: Path) -> None:
        for step in (7, 9):
            write_checkpoint(folder / "out", checkpoint(step), keep=2)

    def loss(folder: Path) -> str | None:
        newest = newest_checkpoint(folder / "out")
        if newest is None or newest.step < 5:
            return "no checkpoint as new as before the kill"
        return lost_checkpoints(folder / "out")

    return Work("checkpoints, by their writer", do, lambda folder: of_files(folder / "out"), prepare, loss)


def lost_checkpoints(folder: Path) -> str | None:
    """Whatever has the name of a checkpoint is one."""
    for path in list_checkpoints(folder):
        try:
            read = read_checkpoint(path)
        except CheckpointError as error:
            return str(error)
        if read.step != step_of(path):
            return f"{path} holds step {read.step}"
    return None


# Whole commands.


def commands(project: Project) -> list[Work]:
    def work(name: str, arguments: Callable[[Path], list[str]], result: Callable[[Path], Result], **more: Any) -> Work:
        return Work(name, lambda folder: command(arguments(folder / "out")), result, **more)

    def training(folder: Path) -> str | None:
        return lost_checkpoints(folder / "out/checkpoints")

    def files(folder: Path) -> Result:
        return of_files(folder / "out")

    damaged = lambda folder: damage(shutil.copytree(project.cache, folder / "out"))  # noqa: E731
    return [
        work("tokenize-dataset", project.tokenize, of_cache, loss=lost_shards),
        work("repair", lambda out: ["repair", str(out)], of_cache, prepare=damaged),
        work("train-prior", project.train, of_training, loss=training),
        work("train-tokenizer", project.train_tokenizer, of_training, loss=training),
        work("fit-controls", project.fit, files),
        work("sample", project.sample, of_cache, loss=lost_shards),
        work("decode", project.decode, files),
        work("export", project.export, files),
        work("tabletop", project.tabletop, files),
    ]


def command(arguments: list[str]) -> int:
    return run_command([*arguments, "--quiet", "--json"])


def damage(cache: Path) -> None:
    """A flipped byte in a shard, a shard that is gone, and metadata that are gone."""
    shards = sorted(cache.glob("streams/video/c/*/0/0/0/0"))
    content = bytearray(shards[0].read_bytes())
    content[5] ^= 1
    shards[0].write_bytes(content)
    shards[1].unlink()
    (cache / "label/zarr.json").unlink()


def of_training(folder: Path) -> Result:
    """Weights, losses and scores of every step, samples and the newest checkpoint; nothing that is a time.

    An older checkpoint than are kept may be left where the run was killed after its last one and before pruning.
    """
    out = folder / "out"
    *older, _ = list_checkpoints(out / "checkpoints")
    lines: dict[str, Any] = {}
    for line in read_metrics(out / "metrics.jsonl"):
        kept = {key: value for key, value in line.items() if not any(word in key for word in TIMED)}
        key = f"metrics of step {line['step']}"
        lines[key] = {**lines.get(key, {}), **kept}
    beside = ("metrics.jsonl", *(f"checkpoints/{path.name}/" for path in older))
    written = {name: digest for name, digest in of_files(out).items() if not name.startswith(beside)}
    return {**lines, **written}
