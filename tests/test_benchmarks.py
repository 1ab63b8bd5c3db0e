"""benchmarks/README.md lists every script and module of benchmarks/, and all benchmarks that texts name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
FILES = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py")}
SCRIPTS = {file for file in FILES if "__main__" in (FOLDER / file).read_text()}
TEXTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *FOLDER.rglob("*.md"), *FOLDER.rglob("*.py")]


def named_scripts(text: str) -> set[str]:
    """Paths below benchmarks/ of the modules that commands in `text` run."""
    modules = re.findall(r"(?:BENCH|python -m tokenreel\.benchmarks)((?:\.\w+)+)", text)
    return {module[1:].replace(".", "/") + ".py" for module in modules}


def shared_modules(text: str) -> set[str]:
    """Paths of the modules in the list at the end of the README: a folder and file names in it, or a path, per item."""
    found = set()
    for item in re.split(r"^- ", text, flags=re.MULTILINE)[1:]:
        folder, *names = re.findall(r"`([\w/]+/|[\w/]+\.py)`", item)
        found |= {folder + name for name in names} if folder.endswith("/") else {folder, *names}
    return found


def test_the_readme_lists_every_script_and_module() -> None:
    table, _, shared = (FOLDER / "README.md").read_text().partition("## Modules that scripts share")
    assert named_scripts(table) == SCRIPTS
    assert shared_modules(shared) == FILES - SCRIPTS


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_benchmark_that_a_text_names_exists(path: Path) -> None:
    assert named_scripts(path.read_text()) <= SCRIPTS


def test_a_heading_that_the_readme_names_exists() -> None:
    results = (FOLDER / "RESULTS.md").read_text()
    for line in (FOLDER / "README.md").read_text().splitlines():
        for heading in re.findall(r"RESULTS: ([^|]+?) \|", line):
            assert f"## {heading}\n" in results
