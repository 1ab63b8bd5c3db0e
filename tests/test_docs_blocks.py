"""The Python in README, docs/concepts.md and docs/python.md is run, page by page, on a small project.

A page's blocks share their names, as in one session. What a `pycon` block shows is what Python prints. What scripts in
docs/ make is what they make now.
"""

from __future__ import annotations

import ast
import doctest
import functools
import inspect
import re
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_project import SIZE, make_project
from tests.decoders.generators.toy_generators import ToyGenerator

import tokenreel
from tokenreel import GENERATORS, PRIORS, TOKENIZERS
from tokenreel.data.spec import Framing
from tokenreel.data.video.probe import REASONS
from tokenreel.decoders.generators.base import build_generator
from tokenreel.pipelines.requests.fields import fields_of
from tokenreel.pipelines.run import COMMANDS
from tokenreel.tokenizers.quantizers.base import QUANTIZERS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PICTURE = DOCS / "architecture.png"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(autouse=True)
def _one_thread_and_registries_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for registry in (QUANTIZERS, TOKENIZERS, PRIORS):
        monkeypatch.setattr(registry, "_members", dict(registry._members))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", ["concepts.md", "python.md"])
def test_python_in_a_page_runs(page: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(project, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    names: dict[str, Any] = {"__name__": "__main__"}
    blocks = list(re.finditer(r"```(python|pycon)\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL))
    assert blocks, f"{page} has no Python any more: take it off the list"
    for number, block in enumerate(blocks):
        language, text = block.groups()
        line = block.string[: block.start()].count("\n") + 1
        if language == "python":
            exec(compile("\n" * line + text, page, "exec"), names)
        else:
            _run_session(text, names, f"{page}, block {number}", line)


def test_python_in_the_page_on_generators_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a toy of one of the page's classes."""
    monkeypatch.setitem(GENERATORS._members, "toy", ToyGenerator)
    toy = build_generator({"type": "toy"}, 5, Framing(6, 11), ("circle", "sweep"))
    toy.save_pretrained(tmp_path / "runs/classes")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "generators.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["videos"].shape == (4, 5, 6, 11, 3)


def test_python_in_the_readme_runs(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On models of SIZE x SIZE pixels, where the demo's have 64 x 64."""
    shutil.copytree(project / "runs", tmp_path / "demo")
    shutil.copy(next((project / "videos").rglob("*.mp4")), tmp_path / "start.mp4")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    shapes = re.findall(r"^(\w+) = .*uint8 \[(.*)\]$", block, flags=re.MULTILINE)
    assert [name for name, _ in shapes] == ["start", "video"]
    for name, shape in shapes:
        assert list(names[name].shape) == [int(size) for size in shape.replace("64", str(SIZE)).split(", ")]


def _run_session(text: str, names: dict[str, Any], name: str, line: int) -> None:
    """Runs lines with >>> and compares what they print."""
    session = doctest.DocTestParser().get_doctest(text, names, name, name, line)
    session.globs = names  # a DocTest copies them, but later blocks use names that this one defines
    output: list[str] = []
    failed = doctest.DocTestRunner().run(session, out=output.append, clear_globs=False).failed
    assert not failed, "".join(output)


def test_the_figure_of_the_architecture_is_up_to_date(tmp_path: Path) -> None:
    """Except for how versions of the library draw letters."""
    runpy.run_path(str(DOCS / "architecture.py"))["draw"]().savefig(tmp_path / "plotted.png")
    plotted, stored = (np.asarray(Image.open(path).convert("RGB"), int) for path in (tmp_path / "plotted.png", PICTURE))
    assert plotted.shape == stored.shape
    assert np.abs(plotted - stored).mean() < 1


def test_the_page_of_presets_is_up_to_date() -> None:
    """After a change of a preset: python docs/presets.py."""
    assert runpy.run_path(str(DOCS / "presets.py"))["page"]() == (DOCS / "presets.md").read_text()


def test_messages_that_the_troubleshooting_quotes_exist() -> None:
    texts = [node.value for text in _sources() for node in ast.walk(ast.parse(text)) if _is_text(node)]
    page = (DOCS / "troubleshooting.md").read_text()
    quoted = re.findall(r'`"([^`]+)"`', page)
    assert len(quoted) > 30
    assert [message for message in quoted if not any(message in text for text in texts)] == []
    assert set(REASONS) <= set(re.findall(r"`([\w-]+)`", page.split("Reasons in quarantine")[1].split("##")[0]))


@pytest.mark.parametrize("page", ["concepts.md", "extend.md", "generators.md", "python.md", "troubleshooting.md"])
def test_options_and_names_in_a_page_exist(page: str) -> None:
    """Options, and names with an underscore, in inline code; names may be defined in blocks of the page or in tests."""
    text = (DOCS / page).read_text()
    blocks = re.findall(r"```.*?```", text, flags=re.DOTALL)
    code = " ".join(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    flags = {field.option.flag for command in COMMANDS for field in fields_of(command.request)}
    assert set(re.findall(r"--[a-z][a-z-]*(?![\w-])", code)) <= flags | {"--debug", "--json"}
    tests = [str(path) + path.read_text() for path in ROOT.glob("tests/**/*.py")]
    known = "\n".join([*_sources(), *tests, *blocks])
    assert [name for name in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", code) if name not in known] == []


def test_the_page_on_python_has_each_public_name_and_its_signature() -> None:
    text = (DOCS / "python.md").read_text()
    code = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    assert set(tokenreel.__all__) - {"__version__"} <= {re.split(r"\W", span)[0] for span in code}
    calls = [" ".join(span.split()).split("(", 1) for span in code if re.match(r"[\w.]+\(", span)]
    public = [(path, arguments) for path, arguments in calls if path.split(".")[0] in tokenreel.__all__]
    assert len(public) > 20
    for path, arguments in public:
        found = functools.reduce(getattr, path.split("."), tokenreel)
        parameters = [p.replace(annotation=p.empty) for p in inspect.signature(found).parameters.values()]
        assert str(inspect.Signature([p for p in parameters if p.name != "self"])) == f"({arguments}", path


def test_the_page_on_python_has_each_request_and_its_fields() -> None:
    text = (DOCS / "python.md").read_text()
    commands = {command.request.__name__: command.name for command in COMMANDS}
    requests = [name for name in tokenreel.__all__ if name.endswith("Request")]
    assert dict(re.findall(r"^\| `(\w+Request)` \| `([\w-]+)` \|$", text, re.M)) == {n: commands[n] for n in requests}
    fields = [field for command in COMMANDS for field in fields_of(command.request) if not field.option.positional]
    flags = {field.name: field.option.flag for field in fields}
    other = {name: flag for name, flag in flags.items() if flag != f"--{name.replace('_', '-')}"}
    assert other == {"class_name": "--class", "classes": "--class", "assignments": "--set"}


def _sources() -> list[str]:
    folders = [ROOT / name for name in ("data", "decoders", "metrics", "pipelines", "priors", "tokenizers")]
    files = [
        *(path for folder in folders for path in folder.rglob("*.py")),
        *ROOT.glob("src/tokenreel/*.py"),
        *ROOT.glob("src/tokenreel/testing/*.py"),
    ]
    return [path.read_text() for path in files]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
