"""No folder of ours shadows an installed package, and the wheel contains every module."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("data", "decoders", "tokenizers", "priors", "metrics", "pipelines")


def python(code: str, cwd: Path, *paths: Path) -> str:
    """What `python -c` prints in `cwd`, which is then the first entry of the import path."""
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
    """A folder without __init__.py never shadows an installed package of the same name, in any working directory."""
    assert not (ROOT / folder / "__init__.py").exists()
    origin = python(f"import importlib.util as u; print(u.find_spec({folder!r}).origin)", ROOT)
    assert origin in _allowed_origins(folder)


def _allowed_origins(folder: str) -> set[str]:
    """The allowed origins: none, or the file of an installed package of this name."""
    find = f"import importlib.util as u; spec = u.find_spec({folder!r}); print(spec and spec.origin)"
    return {"None", python(find, Path(sys.prefix))}


@pytest.mark.parametrize("folder", ["tokenizers", "data"])
def test_an_installed_package_takes_precedence_over_the_folder(folder: str, tmp_path: Path) -> None:
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
    expected = {"tokenreel/" + path.removeprefix("src/tokenreel/") for path in listed if (ROOT / path).is_file()}
    assert len(expected) > 30
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == expected


def test_the_wheel_works_without_the_links(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import tokenreel.data.spec as m, tokenreel.config as c; print(m.__file__, *c.preset_names())"
    file, *presets = python(code, tmp_path, tmp_path).split()
    assert file == str(tmp_path / "tokenreel/data/spec.py")
    assert presets == sorted(path.stem for path in (ROOT / "pipelines/presets").glob("*.yaml"))


def test_a_checkout_without_links_has_every_module(tmp_path: Path) -> None:
    """Git for Windows writes a link as a file that holds its target."""
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in (*FOLDERS, "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    shutil.copytree(ROOT / "src", tmp_path / "src", symlinks=True, ignore=ignore)
    links = [path for path in (tmp_path / "src/tokenreel").iterdir() if path.is_symlink()]
    assert {link.name for link in links} == {*FOLDERS, "benchmarks"}
    for link in links:
        target = link.readlink()
        link.unlink()
        link.write_text(str(target))
    code = "import tokenreel.data.spec as m, tokenreel.benchmarks.structure, tokenreel.config as c; "
    code += "print(m.__file__, *c.preset_names())"
    file, *presets = python(code, tmp_path, tmp_path / "src").split()
    assert file == str(tmp_path / "data/spec.py")
    assert presets == sorted(path.stem for path in (ROOT / "pipelines/presets").glob("*.yaml"))


def test_the_constraints_pin_every_dependency() -> None:
    """A dependency that is only in pyproject.toml would not be pinned in continuous integration."""
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    expected = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["test"]]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    for requirement in expected:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
    assert f"`pip install torch=={pinned['torch']} " in (ROOT / "README.md").read_text()  # else it is replaced
