"""SIGKILL at steps of the file system, by the tools of benchmarks/reliability, which tries them on all commands."""

from __future__ import annotations

from pathlib import Path

from tokenreel.benchmarks.reliability.kills import Work, checkpoints, kill_at_steps, of_files
from tokenreel.benchmarks.reliability.tally import Outcome


def test_checkpoints_survive_their_writer(tmp_path: Path) -> None:
    tally = kill_at_steps(checkpoints(), tmp_path / "kills", share=0.2)
    assert tally.counts[Outcome.HARMLESS] >= 5
    assert not tally.faults


def write_if_absent(folder: Path) -> None:
    """What a careless writer does: the new name may come before the content."""
    path = folder / "out/a"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.with_name("b").write_text("content")
        path.with_name("b").replace(path)


def test_a_writer_that_does_not_flush_is_found_out(tmp_path: Path) -> None:
    work = Work("careless", write_if_absent, lambda folder: of_files(folder / "out"))
    tally = kill_at_steps(work, tmp_path / "kills", share=1)
    assert tally.counts == {Outcome.HARMLESS: 3, Outcome.SILENT: 1}
    assert "step 3 with a power failure: another result: ['a']" in tally.faults[0]
