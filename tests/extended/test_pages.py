"""The console and Python blocks of the other pages, top to bottom, after the README's commands; with fewer videos and
steps.

Each page begins in a copy of the folder that the README's commands leave, the concepts in one that the guides leave,
the commands in an empty one. What is the user's own in the guides (a first frame, a table of integers) is made here.
"""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_hub import FakeHub
from PIL import Image

from tokenreel import read_video
from tokenreel.data.spec import Framing
from tokenreel.pipelines.cli.program import run_command

ROOT = Path(__file__).parents[2]
PAGES = ["commands.md", "concepts.md", "generators.md", "hub.md", "presets.md", "token_cache.md", "videos.md"]
VIDEOS, FRAMES = 24, 32
# After so few steps a codebook may have collapsed. Of an option that is given twice the last counts.
FEWER = {
    "train-tokenizer": ["--steps=2"],
    "train-prior": ["--steps=2"],
    "train-generator": ["--steps=2", "--set=training.batch=2", "--set=training.statistics_batches=1"],
    "tokenize-dataset": ["--allow-collapsed"],
    "sample": ["--num=2"],
    "tabletop": [f"--videos={VIDEOS}"],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's commands leave."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("tokenreel tabletop videos")
        for line in lines_of(blocks(ROOT / "README.md")[1][1]):
            if "push" not in line:
                run(line)
    return folder


@pytest.fixture(scope="module")
def guides(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands of docs/guides.md leave after them."""
    folder = tmp_path_factory.mktemp("guides") / "work"
    shutil.copytree(project, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_files_of_guides()
        run_page("guides.md")
    return folder


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves shards open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_top_to_bottom(
    page: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: FakeHub
) -> None:
    before = {"commands.md": None, "concepts.md": "guides"}.get(page, "project")
    if before is None:
        (tmp_path / "work").mkdir()
    else:
        shutil.copytree(request.getfixturevalue(before), tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    if page == "generators.md":
        write_first_and_last_frame()
    np.save("tokens.npy", np.arange(5 * 16 * 8 * 8).reshape(5, 16, 8, 8) % 512)  # of docs/token_cache.md
    np.save("splits.npy", ["train", "train", "val", "train", "test"])
    np.save("labels.npy", np.arange(5) % 2)
    run_page(page)


def run_page(page: str) -> None:
    names: dict[str, Any] = {}
    for language, text in blocks(ROOT / "docs" / page):
        if language == "python":
            exec(text, names)
        else:
            for line in lines_of(text):
                run(line)


def blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"```(console|python)\n(.*?)```", page.read_text(), flags=re.DOTALL)


def lines_of(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


def run(line: str) -> None:
    """One line of a page: in this process where the program is ours."""
    program, *words = shlex.split(line)
    if program in ("tokenize-dataset", "train-prior"):
        words = [program, *words]
    fewer = next((fewer for command, fewer in FEWER.items() if command in words), [])
    if program in ("accelerate", "hf"):
        subprocess.run([program, *words, *fewer], check=True)
    else:
        assert run_command([*words, *fewer]) == 0, line


def write_files_of_guides() -> None:
    (controls,) = re.findall(r"```yaml\n(controls:.*?)```", (ROOT / "docs/guides.md").read_text(), flags=re.DOTALL)
    Path("controls.yaml").write_text(controls)
    write_first_and_last_frame()
    videos = sorted(Path("videos").rglob("*.mp4"))
    rows = list(csv.DictReader(Path("videos/states.csv").read_text().splitlines()))
    write_table(Path("arm.csv"), ("frame", "x", "y"), [(row["frame"], row["x"], row["y"]) for row in rows[:24]])
    quarters = [(path.relative_to("videos"), i, 4 * i // FRAMES) for path in videos for i in range(FRAMES)]
    write_table(Path("videos/quarters.csv"), ("file_name", "frame", "quarter"), quarters)


def write_first_and_last_frame() -> None:
    video = min(Path("videos").rglob("*.mp4"))
    shutil.copy(video, "start.mp4")
    Image.fromarray(read_video(video, Framing(height=64, width=64))[-1]).save("goal.png")


def write_table(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
