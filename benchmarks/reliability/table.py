"""Is anything silent or lost? Kills, flipped bytes, exchanged files, hostile inputs and a long run, in one table.

    python -m tokenreel.benchmarks.reliability.table [--quick] [--only PART] [--minutes 20]

Prints the table, and what came to a fault; exits with 1 if anything was silent, lost or a traceback. See
docs/reliability.md for what is promised. Everything happens in a temporary folder, which TMPDIR places.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tokenreel.benchmarks.reliability import attacks, flips, kills, process_kills, soak, swaps
from tokenreel.benchmarks.reliability.tally import Outcome, Tally, table

PARTS = {
    "kills": kills.run, "process-kills": process_kills.run, "flips": flips.run, "swaps": swaps.run,
    "attacks": attacks.run,
}  # fmt: skip
QUICK = 0.02  # the share of every part
MANY_SHARDS = "tests/faults/test_cache.py::test_two_thousand_shards_are_read_with_few_files_open"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help=f"try {QUICK:.0%} of everything, and half a minute of soak"
    )
    parser.add_argument("--share", type=float, default=1.0, help="try another share of everything. Default: 1")
    parser.add_argument("--only", choices=[*PARTS, "soak", "open-files"], action="append", help="run these parts alone")
    parser.add_argument("--minutes", type=float, default=20.0, help="of the soak, for each of two processes")
    arguments = parser.parse_args()
    share, minutes = (QUICK, 0.5) if arguments.quick else (arguments.share, arguments.minutes)
    torch.set_num_threads(1)  # a second thread would not survive the forks
    logging.basicConfig(level=logging.ERROR)
    tallies: list[Tally] = []
    for name in arguments.only or [*PARTS, "open-files", "soak"]:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            tallies += run_part(name, share, minutes, Path(folder).resolve())
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)  # noqa: T201
    faults = [fault for tally in tallies for fault in tally.faults]
    print(table([*tallies, total(tallies)]), *faults, sep="\n")  # noqa: T201
    return 1 if faults else 0


def run_part(name: str, share: float, minutes: float, folder: Path) -> list[Tally]:
    if name == "soak":
        return soak.run(minutes, folder)
    return [open_files()] if name == "open-files" else PARTS[name](share, folder)


def open_files() -> Tally:
    """The test of the suite, which reads a cache of 2,000 shards with 128 descriptors."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", MANY_SHARDS]
    done = subprocess.run(command, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True)
    tally = Tally("2,000 shards, 128 open files")
    tally.add(Outcome.HARMLESS if done.returncode == 0 else Outcome.LOST, done.stdout[-400:])
    return tally


def total(tallies: list[Tally]) -> Tally:
    whole = Tally("all")
    for tally in tallies:
        whole.counts += tally.counts
    return whole


if __name__ == "__main__":
    sys.exit(main())
