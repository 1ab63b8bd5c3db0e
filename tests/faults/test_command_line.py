"""What the command line prints and takes, where names are hostile or a shell leaves them as they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tokenreel.data.cache.token_file import write_foreign_tokens
from tokenreel.data.spec import Framing
from tokenreel.errors import ConfigError
from tokenreel.pipelines.cli.program import run_command
from tokenreel.pipelines.requests.program import TabletopRequest
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.tokenizers.base import build_tokenizer

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"


def test_a_files_name_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    hostile = tmp_path / f"videos{ESCAPE}"
    assert run_command(["verify", str(hostile)]) == 1
    tabletop = ["tabletop", "--videos", "1", "--frames", "1", "--size", "16", "--quiet"]
    assert run_command([*tabletop, str(hostile)]) == 0
    assert run_command([*tabletop, "--json", str(tmp_path / f"other{ESCAPE}")]) == 0
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert all(character.isprintable() or character == "\n" for character in text)
    assert r"videos\x1b]0;owned\x07\x1b[2J\u202e" in captured.err
    assert ESCAPE in json.loads(captured.out[captured.out.index("{") :])["directory"]


def test_a_home_folder_behind_an_equals_sign_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell expands `--out ~/x` and leaves `--out=~/x`; places of data and models are strings."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert TabletopRequest(directory="~/videos").directory == tmp_path / "videos"
    assert TabletopRequest(directory="./videos").directory == Path("videos")
    made = TokenizeRequest(data="~/videos?fps=10", tokenizer="~/tokenizer", out="~/cache", exclude=["~x/a.mp4"])
    assert (made.data, made.tokenizer) == (f"{tmp_path}/videos?fps=10", f"{tmp_path}/tokenizer")
    assert (made.out, made.exclude) == (tmp_path / "cache", ("~x/a.mp4",))
    with pytest.raises(ConfigError, match="no such home folder"):
        TabletopRequest(directory="~nobody-of-this-name/videos")


def test_ctrl_c_on_workers_ends_with_one_line(tmp_path: Path) -> None:
    """A terminal sends SIGINT to every process of the foreground group, also to one that is importing torch."""
    tokenizer, out = tmp_path / "tokenizer", tmp_path / "cache"
    section = {"type": "frame-vqvae", "hidden": 6, "residual": 4, "blocks": 1, "latent": 5}
    build_tokenizer(section, 8, Framing(16, 16)).save_pretrained(tokenizer)
    assert run_command(["tabletop", "--videos", "64", "--frames", "64", "--size", "64", str(tmp_path / "videos")]) == 0
    command = ["tokenize-dataset", "--workers", "2", "--tokenizer", str(tokenizer), "--data", str(tmp_path / "videos")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenreel", *command, "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (out / "zarr.json").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.5)  # the workers are importing
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.strip().endswith("tokenreel: interrupted")


TRACKER = """
import atexit, os, sys
def shout(*_, **__):
    print("* Trackio project initialized")
    sys.stdout.write("in Python"); os.write(1, b"in C"); os.system("echo in a process")
init = lambda **_: shout() or sys.modules[__name__]
log = finish = shout
class config: update = shout
atexit.register(shout)
shout()
"""


def test_standard_output_is_json_whatever_a_tracker_prints(tmp_path: Path) -> None:
    """Trackers announce themselves, their runs and their end."""
    installed, cache, run = tmp_path / "packages", tmp_path / "codes", tmp_path / "run"
    (installed / "trackio-1.dist-info").mkdir(parents=True)
    (installed / "trackio-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: trackio\nVersion: 1\n")
    (installed / "trackio.py").write_text(TRACKER)
    tokens = np.random.default_rng(0).integers(0, 5, (7, 3, 2, 2))
    write_foreign_tokens(cache, tokens, Framing(8, 8), codebook_size=5)
    settings = ("prior={type: gpt, depth: 1, width: 4, heads: 1}", "training={batch: 2, learning_rate: 0.01}")
    command = ["train-prior", "--json", "--log-with", "trackio", "--cache", str(cache), "--out", str(run), "--steps=1"]
    done = subprocess.run(
        [sys.executable, "-m", "tokenreel", *command, *(f"--set={setting}" for setting in settings)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 1
    for text in ("* Trackio project initialized", "in Python", "in C", "in a process"):
        assert done.stderr.count(text) >= 5  # on import, init, log, finish and exit
