"""Commands, options, imports and files that texts and presets mention exist."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenreel.pipelines.cli.program import run_command
from tokenreel.pipelines.commands.demo import TOP_K
from tokenreel.pipelines.run import Command

ROOT = Path(__file__).parents[1]
TEXTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
PRESETS = sorted(ROOT.glob("pipelines/presets/*.yaml"))
PROGRAMS = {"tokenreel": [], "tokenize-dataset": ["tokenize-dataset"], "train-prior": ["train-prior"]}


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)


def command_lines(path: Path) -> list[list[str]]:
    """Our command lines in the console blocks of a text or the first comment of a preset, without the program name."""
    if path.suffix == ".yaml":
        lines = [line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#")]
    else:
        lines = "\n".join(blocks(path, "console")).replace("\\\n", " ").splitlines()
    parts = [part.split(" -m ")[-1] if part.startswith("accelerate") else part for part in _parts(lines)]
    words = [shlex.split(part) for part in parts if part.split(" ")[0] in PROGRAMS]
    return [PROGRAMS[program] + arguments for program, *arguments in words]


def _parts(lines: list[str]) -> list[str]:
    return [part.strip() for line in lines for part in line.split("&&")]


CASES = [(path, line) for path in [*TEXTS, *PRESETS] for line in command_lines(path)]


@pytest.mark.parametrize(("path", "line"), CASES, ids=[f"{path.name}: {' '.join(line)[:40]}" for path, line in CASES])
def test_command_lines_are_valid(monkeypatch: pytest.MonkeyPatch, path: Path, line: list[str]) -> None:
    """Parsed by the program without running the command; presets that they name exist."""
    requests = []
    monkeypatch.setattr(Command, "load", lambda _: lambda request: requests.append(request) or {})
    assert run_command(line) == 0
    preset = getattr(requests[0], "preset", None)
    assert preset is None or (ROOT / f"pipelines/presets/{preset}.yaml").is_file()


def test_the_readme_samples_as_its_picture_was_sampled() -> None:
    (line,) = (line for line in command_lines(ROOT / "README.md") if line[0] == "sample")
    assert line[line.index("--top-k") + 1] == str(TOP_K)


def test_texts_open_caches_for_reading_alone() -> None:
    """zarr's own default would create what is missing and let a typing error write."""
    calls = [call for path in TEXTS for call in re.findall(r"zarr\.open\w*\([^)]*\)", path.read_text())]
    assert calls
    assert [call for call in calls if 'mode="r"' not in call] == []


def test_the_page_of_commands_is_up_to_date() -> None:
    """After a change of a request: python docs/commands.py."""
    assert runpy.run_path(str(ROOT / "docs/commands.py"))["page"]() == (ROOT / "docs/commands.md").read_text()


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_python_in_a_text_parses_and_its_imports_exist(path: Path) -> None:
    for block in blocks(path, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tokenreel"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}"), block


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_link_targets_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_files_that_a_tree_lists_exist(name: str) -> None:
    (tree,) = re.findall(r"```\n(src/tokenreel/.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)
    found = list(_paths(tree))
    assert len(found) >= 10
    assert not [str(path) for path in found if not (ROOT / path).exists()]


def _paths(tree: str) -> Iterator[Path]:
    """Each path at the start of a line, below the folder that it is indented under; and the modules that a folder's
    description names.
    """
    folder = Path()
    for indent, names, description in re.findall(r"^( *)([^\s,]+(?:, [^\s,]+)*)(.*)$", tree, flags=re.MULTILINE):
        if not indent:
            folder = Path(names)
        for name in names.split(", "):
            yield folder / name if indent else Path(name)
        if names.endswith("/"):
            below = folder / names if indent else folder
            yield from (below / module for module in re.findall(r"(?<!/)\b\w+\.py\b", description))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_starts_with_its_commands(path: Path) -> None:
    assert any("--preset" in line and path.stem in line for line in command_lines(path)), path.name


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/**/*.py")), ids=lambda path: path.name)
def test_imports_of_benchmarks_exist(path: Path) -> None:
    """Benchmarks are run manually, so that nothing else detects a name that was removed."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tokenreel"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")
