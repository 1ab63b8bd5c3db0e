"""Progress passes items through, prints nothing where it should not, and prints lines without a terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub
from small_project import DATA, FRAMES, SIZE, command, make_project

from tokenreel.pipelines.common import progress as module
from tokenreel.pipelines.common.progress import Progress, progress
from tokenreel.pipelines.run import COMMANDS

TOKENIZER, PRIOR, CACHE = "--tokenizer=runs/tokenizer", "--prior=runs/prior", "--cache=tokens.zarr"
FRAMING = f"--set=data={{frames: {FRAMES}, framing: {{height: {SIZE}, width: {SIZE}}}}}"
TRAINING = ["--steps=1", "--set=training.batch=2"]
GENERATOR = ["--set=training.generator.statistics_batches=1", "--set=training.generator.validation_clips=1"]
LONG = {  # command line -> what its lines on standard error begin with
    ("tabletop", "out", "--videos=2", "--frames=3", "--size=16"): ["tabletop"],
    ("train-tokenizer", "--config=runs/tokenizer/config.json", "--data=videos", "--out=out", *TRAINING): [
        "plan",
        "train",
    ],
    ("fit-controls", "--preset=ccvs-tabletop-tiny-state", FRAMING, f"--data={DATA}", "--out=out"): ["plan", "fit"],
    ("tokenize-dataset", TOKENIZER, "--data=videos", "--out=out"): ["plan", "hash", "tokenize"],
    ("train-prior", "--config=runs/prior/config.json", CACHE, "--out=out", *TRAINING): ["train"],
    (
        *("train-generator", "--preset=dvdgan-tabletop-tiny", "--data=tabletop:?videos=3&frames=12&size=32"),
        *("--out=out", *TRAINING, *GENERATOR),
    ): ["plan", "train"],
    ("evaluate", PRIOR, CACHE): ["evaluate"],
    ("sample", PRIOR, CACHE, "--given-frames=1", "--num=2", "--out=out"): ["sample"],
    ("decode", TOKENIZER, "--tokens=samples.zarr", "--out=out"): ["decode"],
    ("generate", PRIOR, TOKENIZER, "--video=start.mp4", "--given-frames=1", "--out=out"): ["sample", "decode"],
    ("reconstruct", TOKENIZER, "--data=videos", "--out=out"): ["plan", "reconstruct"],
    ("push", "tokens.zarr", "me/tokens"): ["verify"],
    ("pull", "me/pushed", "out"): ["verify"],
    ("inspect", "tokens.zarr"): ["count tokens"],
    ("verify", "tokens.zarr"): ["verify"],
    ("repair", "tokens.zarr"): ["verify", "repair"],
    ("export", CACHE, "--out=out"): ["export"],
}
SHORT = ["demo", "presets list", "presets show", "doctor"]  # demo runs some of the others


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


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("project"))
    shutil.copy(min(folder.glob("videos/*/*.mp4")), folder / "start.mp4")
    source = ["--prior", str(folder / "runs/prior"), "--cache", str(folder / "tokens.zarr")]
    command("sample", *source, "--given-frames=1", "--num=2", "--out", str(folder / "samples.zarr"))
    return folder


@pytest.mark.parametrize(("line", "expected"), LONG.items(), ids=[line[0] for line in LONG])
def test_a_long_command_shows_its_progress(
    line: tuple[str, ...],
    expected: list[str],
    project: Path,
    tmp_path: Path,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(project, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    if line[0] == "pull":
        command("push", "tokens.zarr", "me/pushed")
    if line[0] == "repair":
        next(path for path in Path("tokens.zarr/streams/video/c").rglob("*") if path.is_file()).unlink()
    capsys.readouterr()
    command(*line)
    shown = capsys.readouterr().err.splitlines()
    for what in expected:
        assert any(text.startswith(f"{what}: ") and " [" in text for text in shown), (what, shown)


def test_all_long_commands_are_among_those_above() -> None:
    assert sorted([*SHORT, *(line[0] for line in LONG)]) == sorted(command.name for command in COMMANDS)
