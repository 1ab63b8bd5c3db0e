"""What the command line prints and takes, where names are hostile or a shell leaves them as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenreel.errors import ConfigError
from tokenreel.pipelines.cli.program import run_command
from tokenreel.pipelines.requests.program import TabletopRequest

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
    """A shell expands `--out ~/x` and leaves `--out=~/x`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert TabletopRequest(directory="~/videos").directory == tmp_path / "videos"
    assert TabletopRequest(directory="./videos").directory == Path("videos")
    with pytest.raises(ConfigError, match="no such home folder"):
        TabletopRequest(directory="~nobody-of-this-name/videos")
