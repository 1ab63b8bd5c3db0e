"""Whole processes killed at any time: commands with workers, two parts of one cache at once, push and pull.

A process is killed at a random moment after it first wrote, alone or with its workers; those that are left end by
themselves, beside the same command that is already running again.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenreel.benchmarks.reliability.killing import Ended
from tokenreel.benchmarks.reliability.kills import (
    Result,
    judge,
    lost_checkpoints,
    lost_shards,
    of_cache,
    of_files,
    of_training,
)
from tokenreel.benchmarks.reliability.project import Project
from tokenreel.benchmarks.reliability.tally import Outcome, Tally

KILLS = 12  # of each
LIMIT_S = 300
Lines = Sequence[list[str]]  # command lines that run at once


def run(share: float, folder: Path) -> list[Tally]:
    project, count = Project(folder / "project").make(), max(1, round(share * KILLS))
    project.data = str(_videos(project, folder / "videos"))
    out = folder / "trial/out"

    def kill(name: str, lines: Lines, result: Callable[[Path], Result], loss: Callable[[Path], str | None]) -> Tally:
        return kill_processes(f"kills: {name}", lines, out.parent, result, loss, count)

    half = [[*project.tokenize(out), "--num-shards", "2", "--shard-index", str(index)] for index in (0, 1)]
    training = lambda trial: lost_checkpoints(trial / "out/checkpoints")  # noqa: E731
    files = lambda trial: of_files(trial / "out")  # noqa: E731
    tallies = [
        kill("processes, tokenize-dataset", [project.tokenize(out)], of_cache, lost_shards),
        kill("processes, two workers", [project.tokenize(out, "--workers", "2")], of_cache, lost_shards),
        kill("processes, two parts at once", half, of_cache, lost_shards),
        kill("processes, train-prior", [project.train(out)], of_training, training),
        kill("processes, decode", [project.decode(out)], files, lambda trial: None),
    ]
    return [*tallies, *hub_kills(project, folder, count)]


def _videos(project: Project, folder: Path) -> Path:
    subprocess.run(command_line([*project.tabletop(folder), "--quiet"]), check=True, stdout=subprocess.DEVNULL)
    return folder


def command_line(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "tokenreel", *arguments]


def kill_processes(
    name: str,
    lines: Lines,
    trial: Path,
    result: Callable[[Path], Result],
    loss: Callable[[Path], str | None],
    count: int,
) -> Tally:
    tally, draw = Tally(name), random.Random(name)
    shutil.rmtree(trial, ignore_errors=True)
    trial.mkdir()
    started = time.monotonic()
    undisturbed = complete(lines)
    longest = time.monotonic() - started
    assert undisturbed.code == 0, undisturbed.output
    expected = result(trial)
    for number in range(count):
        shutil.rmtree(trial)
        trial.mkdir()
        processes = [start(line) for line in lines]
        while not any(trial.iterdir()) and any(process.poll() is None for process in processes):
            time.sleep(0.002)
        time.sleep(draw.random() * longest / 4)
        killed = [stop(process, with_workers=number % 2 == 0) for process in processes]
        if not any(killed):  # too late: nothing is shown
            continue
        if lost := loss(trial):
            tally.add(Outcome.LOST, lost)
            continue
        tally.add(*judge(lambda: complete(lines), trial / "out", lambda: result(trial), expected))
    return tally


def start(line: list[str], environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command_line([*line, "--quiet"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )


def stop(process: subprocess.Popen[bytes], with_workers: bool) -> bool:
    """Returns whether it was killed, and had not ended by itself."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL) if with_workers else process.kill()
    return process.wait() == -signal.SIGKILL


def complete(lines: Lines, environment: dict[str, str] | None = None) -> Ended:
    """Runs command lines at once, to their ends, and then the first of them again if there are several."""
    output, code = "", 0
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    processes = [subprocess.Popen(command_line([*line, "--quiet"]), env=variables, **pipes) for line in lines]
    for process in processes:
        output += process.communicate(timeout=LIMIT_S)[0].decode(errors="replace")
        code = code or process.returncode
    if len(lines) > 1 and code == 0:  # whichever was last may have sealed the cache; both may have been too early
        return complete([lines[0]], environment)
    return Ended(code, output)


def hub_kills(project: Project, folder: Path, count: int) -> list[Tally]:
    """`push` and `pull` killed at each of their requests to a Hub on the loopback."""
    fake_hub = _fake_hub()
    server = fake_hub.Server()
    server.handle_error = lambda *_: None  # of connections to the killed
    server.start()
    variables = {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / "hub"), "HF_TOKEN": "hf_fake"}
    variables |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    trial = folder / "hub-trial"
    trial.mkdir()

    def pushed(_: Path) -> Result:
        return dict(server.hub.files("dataset", "me/tokens"))

    def forget() -> None:
        shutil.rmtree(trial)
        trial.mkdir()

    push, pull = ["push", str(project.cache), "me/tokens"], ["pull", "me/tokens", str(trial / "out")]
    return [
        _kill_at_requests("push", push, server, variables, pushed, count, lambda: server.hub.repos.clear()),
        _kill_at_requests("pull", pull, server, variables, lambda _: of_files(trial / "out"), count, forget),
    ]


def _kill_at_requests(
    name: str,
    line: list[str],
    server: Any,
    variables: dict[str, str],
    result: Callable[[Path], Result],
    count: int,
    forget: Callable[[], object],
) -> Tally:
    tally, before = Tally(f"kills: processes, {name}"), len(server.hub.requests)
    ended = complete([line], variables)
    assert ended.code == 0, ended.output
    expected, requests = result(Path()), len(server.hub.requests) - before
    for number in range(count):
        forget()
        before = len(server.hub.requests)
        process = start(line, variables)
        while process.poll() is None and len(server.hub.requests) - before <= number * requests // count:
            time.sleep(0.001)
        if not stop(process, with_workers=True):
            continue
        tally.add(*judge(lambda: complete([line], variables), Path(line[-1]), lambda: result(Path()), expected))
    return tally


def _fake_hub() -> ModuleType:
    """The Hub of the tests, which lies beside them and in no package."""
    path = Path(__file__).resolve().parents[2] / "tests/helpers/fake_hub.py"
    spec = importlib.util.spec_from_file_location("fake_hub", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_hub"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module
