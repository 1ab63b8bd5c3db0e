"""The command line: fast help, one line for user errors, exit codes, options that match the requests."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import os
import subprocess
import sys
import typing
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from tokenreel.config import preset_names
from tokenreel.errors import ConfigError, DataError
from tokenreel.pipelines.cli.program import program, run_command
from tokenreel.pipelines.commands import tabletop
from tokenreel.pipelines.requests.fields import Request
from tokenreel.pipelines.run import COMMANDS, Command

# Options that are guaranteed; commands may have others.
PROMISED = {
    "demo": "--out",
    "tabletop": "--videos --seed",
    "train-tokenizer": "--preset --data --out --steps --device --resume",
    "fit-controls": "--preset --config --set --data --out --split",
    "tokenize-dataset": "--tokenizer --controls --controls-revision --data --out --workers --shard-index --num-shards "
    "--clip-stride",
    "train-prior": "--preset --cache --out --steps --device --resume",
    "train-generator": "--preset --data --out --steps --device --resume",
    "evaluate": "--prior --cache --split --given-frames --out --shard-index --num-shards",
    "sample": "--prior --cache --given-frames --num --num-clips --frames --seed --temperature --top-k --top-p "
    "--given-controls --top-k-of --guidance --speculate --window-stride --generator --data --class --truncation --out",
    "decode": "--tokens --tokenizer --context --context-video --given-frames --end --out --format",
    "generate": "--prior --tokenizer --video --given-frames --frames --controls --class --states --sound --control "
    "--end --top-k-of --guidance --context --generator --truncation --between-classes --between-seeds --steps --out",
    "reconstruct": "--tokenizer --data --given-frames --out",
    "push": "--revision",
    "pull": "--revision",
    "inspect": "--pictures --num-clips",
    "verify": "",
    "export": "--cache --out --format --split --shard-rows",
    "repair": "",
    "presets list": "",
    "presets show": "",
    "doctor": "",
}


def call(monkeypatch: pytest.MonkeyPatch, result: Any, *arguments: str) -> tuple[int, Request | None]:
    """Runs a command line whose command returns `result` without working. Returns the exit code and the request."""
    requests: list[Request] = []

    def run(request: Request) -> dict[str, Any]:
        requests.append(request)
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(Command, "load", lambda self: run)
    code = run_command(list(arguments))
    return code, requests[0] if requests else None


def help_of(capsys: pytest.CaptureFixture[str], name: str) -> str:
    """A command's help as one line."""
    assert run_command([*name.split(), "--help"]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_its_guaranteed_options(capsys: pytest.CaptureFixture[str], command: Command) -> None:
    assert {command.name for command in COMMANDS} == PROMISED.keys()
    words = help_of(capsys, command.name).split()
    assert set(PROMISED[command.name].split()) | {"--json", "--quiet", "--debug"} <= set(words)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_accepts_the_request_of_its_options(command: Command) -> None:
    (parameter,) = inspect.signature(command.load(), eval_str=True).parameters.values()
    assert command.request in (parameter.annotation, *typing.get_args(parameter.annotation))


def test_help_is_fast() -> None:
    """Neither torch nor the array and video libraries are imported for any command's `--help`."""
    code = f"""
import sys
from tokenreel.pipelines.cli.program import run_command
for name in {[command.name for command in COMMANDS]!r}:
    assert run_command([*name.split(), "--help"]) == 0, name
print(sorted({{"torch", "numpy", "zarr", "av", "huggingface_hub", "accelerate"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_programs_are_installed() -> None:
    programs = {
        point.name: point.load() for point in entry_points(group="console_scripts") if "tokenreel" in point.value
    }
    assert set(programs) == {"tokenreel", "tokenize-dataset", "train-prior"}


@pytest.mark.parametrize(
    ("program", "name"), [("tokenize_dataset", "tokenize-dataset"), ("train_prior", "train-prior")]
)
def test_a_separate_program_equals_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as done:
        getattr(importlib.import_module("tokenreel.pipelines.cli.program"), program)()
    assert done.value.code == 0
    assert f"tokenreel {name} [OPTIONS]" in capsys.readouterr().out


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "tokenreel", "--version"], capture_output=True, text=True, check=True)
    assert "tokenreel" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["dcode"], "decode"),
        (["decode", "--tokns", "x"], "--tokens"),
        (["presets", "shwo"], "show"),
        (["presets", "show", "lvt-bair-papr"], "lvt-bair-paper"),
        (["decode"], "Missing option '--tokens'"),
        (["sample", "--prior", "p", "--cache", "c", "--out", "o", "--num", "0"], "--num"),
        (["decode", "--format", "avi"], "mp4"),
        (["generate", "--stats", "x"], "--states"),
        (["generate", "--prior", "p", "--top-k-of", "state"], "STREAM=K"),
        (["generate", "--control", "a=1", "--control", "a=2"], "'a' is given twice, as 1 and as 2"),
        (["decode", "--tokens", "x", "--tokenizer", "x", "--out", "x", "--given-frames", "2"], "--context-video"),
    ],
)
def test_a_misspelt_argument_gives_one_line_with_the_nearest_one(
    capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str
) -> None:
    assert run_command(arguments) == 2
    output = capsys.readouterr().err
    assert hint in output
    assert len(output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("prior.dpeth: unknown key"), 2, "prior.dpeth: unknown key"),
        (DataError("the folder is empty"), 1, "the folder is empty"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    assert call(monkeypatch, error, "doctor")[0] == code
    output = capsys.readouterr().err
    assert message in output
    assert "Traceback" not in output


def test_quarantine_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, {"rows": 5, "quarantined": 2}, "doctor")[0] == 3
    assert call(monkeypatch, {"rows": 5, "quarantined": 0}, "doctor")[0] == 0


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError):
        call(monkeypatch, DataError("empty"), "doctor", "--debug")


def test_an_internal_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        call(monkeypatch, ZeroDivisionError(), "doctor")


SUMMARY = {"out": "demo", "clips": 12345, "rate": 0.123456, "sections": {"prior": {"depth": 4}}, "none": []}


def test_the_summary_is_printed_as_json_and_as_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, SUMMARY, "doctor", "--json")
    assert json.loads(capsys.readouterr().out) == SUMMARY
    call(monkeypatch, SUMMARY, "doctor")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "out    demo",
        "clips  12,345",
        "rate   0.1235",
        "sections:",
        "  prior:",
        "    depth  4",
        "none   none",
    ]


def test_only_one_of_several_processes_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert call(monkeypatch, SUMMARY, "doctor")[0] == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_shown_resolved_with_their_sizes(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run_command(["presets", "show", name, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert all(count > 0 for count in output["parameters"].values())
    stages = {network.partition(".")[0] for network in output["parameters"]} - {"discriminators"}
    assert output["training"].keys() == stages == {"tokenizer", "prior", "generator"} & output.keys()


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["presets", "list", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == preset_names()


def test_the_doctor_accepts_the_pinned_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    pinned = (Path(__file__).parents[3] / "constraints.txt").read_text()
    assert report["warnings"] == []
    assert f"torch=={report['packages']['torch'].split('+')[0]}" in pinned


def test_an_interrupt_while_libraries_are_imported_ends_quietly(tmp_path: Path) -> None:
    """A KeyboardInterrupt during an import may become any error of the partly imported library."""
    (tmp_path / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "tokenreel", "verify", "x"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "tokenreel: interrupted\n")


def test_a_stopped_demo_does_not_promise_to_resume(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt("stopped at step 7; run the same command to resume")

    monkeypatch.setattr(tabletop, "run", stop)
    assert run_command(["demo", "--out", str(tmp_path)]) == 130
    output = capsys.readouterr().err
    assert "a demo does not resume" in output
    assert "same command" not in output


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["train-prior", "--preset"], "lvt-tabletop-tiny"),
        (["train-tokenizer", "--data", "videos", "--preset"], "lvt-tabletop-tiny"),
        (["presets", "show"], "lvt-tabletop-tiny"),
    ],
)
def test_a_shell_completes_the_names_of_presets(words: list[str], offered: str) -> None:
    """By the library's own protocol: what stands before the cursor, and the beginning of a word."""
    found = ShellComplete(program, {}, "tokenreel", "_TOKENREEL_COMPLETE").get_completions(words, "lvt-tab")
    assert [item.value for item in found] == [offered]
