"""The house keeps its shape: no folder of ours takes the place of a package, and what is built holds every module."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("data", "decoders", "tokenizers", "priors", "metrics", "pipelines")


def python(code: str, cwd: Path, *paths: Path) -> str:
    """What `python -c` prints in `cwd`, which then is the first place that imports are looked for."""
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={"PYTHONPATH": ":".join(map(str, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_is_a_regular_package(folder: str) -> None:
    """Without an __init__.py a folder never wins over an installed package of the same name, wherever Python stands."""
    assert not (ROOT / folder / "__init__.py").exists()
    assert python(f"import importlib.util as u; print(u.find_spec({folder!r}).origin)", ROOT) in _elsewhere(folder)


def _elsewhere(folder: str) -> set[str]:
    """None where nothing of that name is installed, so that only the bare folder answers; else the installed one."""
    find = f"import importlib.util as u; spec = u.find_spec({folder!r}); print(spec and spec.origin)"
    return {"None", python(find, Path(sys.prefix))}


@pytest.mark.parametrize("folder", ["tokenizers", "data"])
def test_an_installed_package_wins_over_the_folder(folder: str, tmp_path: Path) -> None:
    installed = tmp_path / folder / "__init__.py"
    installed.parent.mkdir()
    installed.touch()
    assert python(f"import {folder}; print({folder}.__file__)", ROOT, tmp_path) == str(installed)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the sdist, as `pip install tokenreel` would."""
    out = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return next(out.glob("*.whl"))


def test_a_wheel_from_the_sdist_holds_every_module(wheel: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so there is no list of modules to compare with")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *FOLDERS, "src"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    wanted = {"tokenreel/" + path.removeprefix("src/tokenreel/") for path in listed if (ROOT / path).is_file()}
    assert len(wanted) > 30
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == wanted


def test_the_wheel_works_without_the_links(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import tokenreel.data.spec as m, tokenreel.config as c; print(m.__file__, *c.preset_names())"
    file, *presets = python(code, tmp_path, tmp_path).split()
    assert file == str(tmp_path / "tokenreel/data/spec.py")
    assert presets == sorted(path.stem for path in (ROOT / "pipelines/presets").glob("*.yaml"))


def test_the_constraints_pin_every_dependency() -> None:
    """A dependency added to pyproject.toml alone would float in continuous integration."""
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["test"]]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    for requirement in wanted:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
