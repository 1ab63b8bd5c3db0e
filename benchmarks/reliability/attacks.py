"""Hostile inputs, each given to a command in a process of its own: one clear error or the right result, little memory.

A process that is killed, does not end in time or shows a traceback counts as a traceback, one that takes more memory as
lost. `noticed` is an exit code other than 0 with an explanation, `harmless` is success, where the attack allows it.
Intact inputs of the same kinds must be accepted, as else any refusal would count as one of the attack.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenreel.benchmarks.reliability.attack import Attack
from tokenreel.benchmarks.reliability.hostile_inputs import attacks
from tokenreel.benchmarks.reliability.tally import Outcome, Tally

MAX_MIB, MAX_S, MAX_CHARACTERS = 1024, 120, 4000  # of the output
MAX_WRITTEN_MIB = 4096  # of the disk, which others may write to
# Runs a command line and reports the largest memory that this process, not its workers, ever had.
MEASURED = """
import re, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))  # for the sake of this machine
from tokenreel.pipelines.cli.program import run_command
try:
    code = run_command(sys.argv[2:])
finally:
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    Path(sys.argv[1]).write_text(peak)
sys.exit(code)
"""


@dataclass(frozen=True)
class Run:
    code: int | None  # None: it did not end in time
    output: str
    peak_mib: int
    seconds: float


def run(share: float, folder: Path) -> list[Tally]:
    tally = Tally("attacks", peak_mib=0)
    for attack in list(_chosen(attacks(folder), share)):
        free = shutil.disk_usage(folder).free
        measured = run_measured(attack, folder)
        written = (free - shutil.disk_usage(folder).free) >> 20
        assert tally.peak_mib is not None
        tally.peak_mib = max(tally.peak_mib, measured.peak_mib)
        outcome, what = judge(attack, measured)
        if written > MAX_WRITTEN_MIB:
            outcome, what = Outcome.LOST, f"{written:,} MiB of the disk"
        tally.add(outcome, f"{attack.name} ({measured.seconds:.0f} s, {measured.peak_mib} MiB): {what}")
    return [tally]


def _chosen(made: Iterator[Attack], share: float) -> Iterator[Attack]:
    every = max(1, round(1 / share))
    return (attack for number, attack in enumerate(made) if attack.intact or number % every == 0)


def run_measured(attack: Attack, folder: Path) -> Run:
    peak, started = folder / "peak", time.monotonic()
    peak.write_text("0")
    command = [sys.executable, "-c", MEASURED, str(peak), *attack.arguments, "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **attack.environment}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    try:
        output, code = process.communicate(timeout=MAX_S)[0], process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        output, code = process.communicate()[0], None
    seconds = time.monotonic() - started
    return Run(code, output.decode(errors="replace"), int(peak.read_text()) >> 10, seconds)


def judge(attack: Attack, measured: Run) -> tuple[Outcome, str]:
    last = measured.output[-400:]
    if measured.code is None or measured.code < 0 or "Traceback" in measured.output:
        how = "no end" if measured.code is None else f"exit code {measured.code}"
        return Outcome.TRACEBACK, f"{how}: {last}"
    if measured.peak_mib > MAX_MIB:
        return Outcome.LOST, f"memory of the main process: {last}"
    if len(measured.output) > MAX_CHARACTERS:
        return Outcome.LOST, f"the explanation, in {len(measured.output):,} characters"
    if "\x1b" in measured.output:
        return Outcome.SILENT, f"an escape reached the terminal: {last!r}"
    if measured.code == 0:
        return (Outcome.SILENT, f"accepted: {last}") if attack.refused else (Outcome.HARMLESS, "")
    if attack.intact:
        return Outcome.LOST, f"an intact input was refused: {last}"
    return (Outcome.NOTICED, "") if last.strip() else (Outcome.SILENT, "no message")
