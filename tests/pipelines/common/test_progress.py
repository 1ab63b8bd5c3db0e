"""Progress passes items through, prints nothing where it should not, and prints lines without a terminal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tokenreel.pipelines.common import progress as module
from tokenreel.pipelines.common.progress import Progress, progress


@pytest.fixture(autouse=True)
def a_line_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.0)
    monkeypatch.setattr(module, "_quiet", False)


def test_items_pass_through_lazily(capsys: pytest.CaptureFixture[str]) -> None:
    consumed = []

    def items() -> Iterator[int]:
        for item in range(3):
            consumed.append(item)
            yield item

    wrapped = progress(items(), "decode", "clip", total=3)
    assert next(iter(wrapped)) == 0
    assert consumed == [0]
    assert list(wrapped) == [1, 2]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(" [")[0] for line in captured.err.splitlines()] == [f"decode: {n}/3 clip" for n in (1, 2, 3)]


def test_work_done_earlier_counts_and_values_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(17, "train", "step", done=5) as bar:
        bar.advance(7, loss="0.25")
    line = capsys.readouterr().err
    assert "train: 12/17 step" in line
    assert "loss 0.25" in line


def test_quiet_and_other_processes_print_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert list(progress(range(3), "decode", "clip")) == [0, 1, 2]
    monkeypatch.setenv("RANK", "0")
    module.silence()
    assert list(progress(range(3), "decode", "clip")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
