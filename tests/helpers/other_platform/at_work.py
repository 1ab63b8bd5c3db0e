"""`python at_work.py FOLDER`: imports every module and uses what differs between systems; a failure is an exception."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numbered_videos import HEIGHT, WIDTH, numbers_of, write_numbered

from tokenreel.config import load_yaml
from tokenreel.data.cache.file_map import map_file
from tokenreel.data.cache.files import durable_put, staged_folder, sweep_partials
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.sources.base import ReadRequest
from tokenreel.data.spec import Framing
from tokenreel.errors import CheckpointError
from tokenreel.pipelines.common import device
from tokenreel.pipelines.report.page import Page
from tokenreel.pipelines.training.interrupt import STOP_SIGNALS
from tokenreel.pipelines.training.run_folder import RunFolder

ROOT = Path(__file__).parents[3]
FOLDERS = ("data", "decoders", "tokenizers", "priors", "metrics", "pipelines", "src/tokenreel/testing")
INDICES = np.array([1, 4])


def import_everything() -> None:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 150
    for file in files:
        relative = file.relative_to(ROOT).with_suffix("").as_posix().removeprefix("src/tokenreel/")
        importlib.import_module(f"tokenreel.{relative.replace('/', '.')}")


def read_files(folder: Path) -> None:
    """In a worker process, and in place inside a tar shard."""
    video = folder / "a.mp4"
    write_numbered(video, 7)
    with tarfile.open(folder / "b.tar", "w") as tar:
        tar.add(video, "a.mp4")
    for location, workers in ((video, 1), (folder / "b.tar", 0)):
        with DecodePool(str(location), workers) as pool:
            (result,) = pool.read([ReadRequest(0, INDICES, Framing(HEIGHT, WIDTH))], ahead=1)
        assert result.frames is not None
        assert numbers_of(result.frames) == INDICES.tolist()


def write_files(folder: Path) -> None:
    durable_put(folder / "c.json", b"content")
    with (folder / "c.json").open("rb") as file:
        content = map_file(file, 5)
    assert bytes(content) == b"conte"
    with pytest.raises(TypeError):
        content[0] = 1
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    with staged_folder(folder / "d") as alive:
        dead = alive.with_name(alive.name.replace(f"~{os.getpid()}~", f"~{finished.pid}~"))
        dead.mkdir()
        sweep_partials(folder)
        assert alive.exists()
        assert not dead.exists()


def write_texts(folder: Path) -> None:
    """As UTF-8, whatever the system's encoding is."""
    (folder / "e.yaml").write_bytes("name: \N{LATIN SMALL LETTER E WITH ACUTE}".encode())
    (name,) = load_yaml(folder / "e.yaml").values()
    assert name == "\xe9"
    page = Page(name, "")
    page.write(folder / "page.html")
    assert name.encode() in (folder / "page.html").read_bytes()


def stop_and_lock(folder: Path) -> None:
    assert {"SIGINT", "SIGTERM"} <= {number.name for number in STOP_SIGNALS}
    run = RunFolder(folder / "run", None)
    with run.lock(), pytest.raises(CheckpointError, match="another process"):
        RunFolder(folder / "run", None).lock()


if __name__ == "__main__":
    assert device.sys.platform == os.environ["PLATFORM"]
    import_everything()
    for use in (read_files, write_files, write_texts, stop_and_lock):
        use(Path(sys.argv[1]))
