"""docs/tutorial.md from its first command to its last, in one folder, with fewer videos and steps.

Run by `bash .ci/extended`, or `pytest tests/extended` in an environment in which tokenreel is installed. Takes some
minutes, most of them for the starts of 13 processes: an ordinary run of pytest does not collect it.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/tutorial.md"
# By command. The tokenizer takes 100 steps, as after 30 its codebook has collapsed, which tokenize-dataset refuses.
FEWER = {"tabletop": "--videos 24", "train-tokenizer": "--steps 100", "train-prior": "--steps 5"}


def commands() -> list[str]:
    """The lines of the console blocks with options that shorten them; of an option given twice the last counts."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    return [_short(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def _short(line: str) -> str:
    words = set(shlex.split(line)[:2])
    return " ".join([line, *(fewer for command, fewer in FEWER.items() if command in words)])


def test_the_tutorial_runs_from_top_to_bottom(tmp_path: Path) -> None:
    lines = commands()
    assert len(lines) >= 10
    for line in lines:
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
    scores = json.loads((tmp_path / "reconstructed/scores.json").read_text())
    assert scores["psnr"] > 10
    for folder, count in (("reconstructed/side_by_side", 2), ("sampled", 16), ("continued", 4)):
        assert len(list((tmp_path / folder).glob("*.mp4"))) >= count, folder
    assert list((tmp_path / "token-maps").glob("*.png"))
