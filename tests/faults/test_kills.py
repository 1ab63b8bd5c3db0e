"""SIGKILL at steps of the file system, by the tools of benchmarks/reliability, which tries them on all commands.

Also the script in which they run, `test_kills.py NAME FOLDER`: they fork, and a fork of a process that has other
threads, such as those of the tests before, may wait for ever for what one of them held.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tokenreel.benchmarks.reliability.kills import Work, checkpoints, kill_at_steps, of_files


def write_if_absent(folder: Path) -> None:
    """What a careless writer does: the new name may come before the content."""
    path = folder / "out/a"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.with_name("b").write_text("content")
        path.with_name("b").replace(path)


WORKS = {
    "checkpoints": (checkpoints(), 0.2),
    "careless": (Work("careless", write_if_absent, lambda folder: of_files(folder / "out")), 1),
}


def killed(name: str, folder: Path) -> dict[str, Any]:
    """The counts by outcome, and the faults."""
    command = [sys.executable, __file__, name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_checkpoints_survive_their_writer(tmp_path: Path) -> None:
    found = killed("checkpoints", tmp_path / "kills")
    assert found["counts"]["harmless"] >= 5
    assert not found["faults"]


def test_a_writer_that_does_not_flush_is_found_out(tmp_path: Path) -> None:
    found = killed("careless", tmp_path / "kills")
    assert found["counts"] == {"harmless": 3, "silent": 1}
    assert "step 3 with a power failure: another result: ['a']" in found["faults"][0]


if __name__ == "__main__":
    work, share = WORKS[sys.argv[1]]
    tally = kill_at_steps(work, Path(sys.argv[2]), share)
    print(json.dumps({"counts": {outcome.value: n for outcome, n in tally.counts.items()}, "faults": tally.faults}))  # noqa: T201
