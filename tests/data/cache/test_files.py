from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from tokenreel.data.cache.files import durable_put, read_json, sweep_partials
from tokenreel.errors import CacheError


def test_a_full_disk_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    """The file size limit of a child process simulates the full disk."""
    path = tmp_path / "shard"
    durable_put(path, b"old")
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            durable_put(path, bytes(2000))
        except CacheError as error:
            os._exit(0 if "cannot be written" in str(error) and "run the same command again" in str(error) else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["shard"]
    assert path.read_bytes() == b"old"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=f"{tmp_path}/file/shard cannot be written: Not a directory"):
        durable_put(tmp_path / "file" / "shard", b"")


def test_only_leftovers_of_dead_writers_are_removed(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    host = os.uname().nodename
    (tmp_path / "c").mkdir()
    dead, living = (tmp_path / "c" / f".0~{host}~{pid}~ab12.partial" for pid in (child, os.getpid()))
    for path in (dead, living, tmp_path / "c" / f".0~elsewhere~{child}~ab12.partial"):
        path.write_text("half")
    sweep_partials(tmp_path)
    assert not dead.exists()
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("{", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(CacheError, match=r"x\.json is damaged: it is not JSON"):
            read_json(path)
    with pytest.raises(CacheError, match=r"y\.json cannot be read"):
        read_json(tmp_path / "y.json")
