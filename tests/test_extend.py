"""The files in docs/extend.md pass their contract tests, and its commands run with them, on fewer steps and data."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tokenreel import GENERATORS, PRIORS, TOKENIZERS
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.sources.open import SOURCES
from tokenreel.pipelines.cli.program import run_command
from tokenreel.tokenizers.quantizers.base import QUANTIZERS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extend.md").read_text()
FILES = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL))
SHORT = {  # such a short training leaves most codes unused
    "train-tokenizer": ["--steps", "2"],
    "tokenize-dataset": ["--allow-collapsed"],
    "train-prior": ["--steps", "2"],
}
TESTS = [Path(name).stem for name in FILES if name.startswith("test_")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Makes the page's files importable; afterwards their modules and registrations are removed."""
    folder = tmp_path_factory.mktemp("extend")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for registry in (QUANTIZERS, TOKENIZERS, PRIORS, GENERATORS):
            patch.setattr(registry, "_members", dict(registry._members))
        patch.setattr(SOURCES, "_added", list(SOURCES._added))
        yield folder
    for name in FILES:
        sys.modules.pop(Path(name).stem, None)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", TESTS)
def test_a_test_of_the_page_passes(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(name)
    functions = [function for title, function in vars(module).items() if title.startswith("test_")]
    assert functions
    for function in functions:
        function(*[tmp_path] * function.__code__.co_argcount)


def test_each_kind_has_its_test() -> None:
    names = [f"test_{name}" for name in ("bsq", "causal", "gru", "deconv", "path_list")]
    assert names == TESTS


def test_the_commands_of_the_page_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two training steps and six videos; the programs are those of the page."""
    monkeypatch.chdir(folder)
    (text,) = re.findall(r"```console\n(tokenreel tabletop.*?)```", PAGE, flags=re.DOTALL)
    for line in text.splitlines():
        program, *words = shlex.split(line)
        if program == "ls":
            subprocess.run(line, shell=True, check=True)
        elif program == "tokenreel":
            assert run_command([*words, "--videos", "6"]) == 0, line
        else:
            assert (program, words[0]) == ("python", "mine.py")
            monkeypatch.setattr(sys, "argv", [*words, *SHORT.get(words[1], ())])
            with pytest.raises(SystemExit, match=r"^0$"):
                runpy.run_path("mine.py", run_name="__main__")
    assert TokenCache.open("tokens.zarr").spec.time == "causal"
    assert len(list(Path("samples").glob("*.mp4"))) == 4


def test_diffs_apply_to_existing_lines() -> None:
    (diff,) = re.findall(r"```diff\n(.*?)```", PAGE, flags=re.DOTALL)
    for path, text in re.findall(r"^\+\+\+ b/(\S+)\n((?:(?!---).*\n)+)", diff, flags=re.MULTILINE):
        before, after = [[line[1:] for line in text.splitlines() if line[0] in f" {sign}"] for sign in "-+"]
        assert "\n".join(before) in (ROOT / path).read_text(), path
        assert len(after) == len(before) + 1


def test_checks_and_files_that_the_page_names_exist() -> None:
    contracts = "\n".join(path.read_text() for path in ROOT.glob("src/tokenreel/testing/*.py"))
    known = set(re.findall(r"^def (check_\w+)", contracts, flags=re.MULTILINE))
    named = set(re.findall(r"`(check_\w+)`", PAGE))
    assert named
    assert named <= known
    from_outside, _ = PAGE.split("## Inside the repository")
    for path in re.findall(r"`((?:tests|tokenizers|priors|pipelines|data)/[\w/.]+)`", from_outside):
        assert (ROOT / path).exists(), path
