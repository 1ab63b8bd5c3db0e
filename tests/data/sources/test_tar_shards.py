"""WebDataset shards: what WebDataset itself writes is read; members that could do harm stop the reading."""

from __future__ import annotations

import io
import json
import pickle  # noqa: TID251 - to write what must not be unpickled
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numbered_videos import HEIGHT, WIDTH, numbers_of, write_numbered

from tokenreel.data.sources.base import VideoEntry
from tokenreel.data.sources.open import open_source
from tokenreel.data.spec import Framing
from tokenreel.data.video import DecodeFailure
from tokenreel.errors import DataError

AS_IS = Framing(HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    write_numbered(path, 7)
    return path.read_bytes()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_shards_in_a_range(tmp_path: Path, video: bytes) -> None:
    others = {"a.caption": b"unknown to us", "._a.mp4": b"what macOS adds", ".b.mp4": b"hidden"}
    write_tar(tmp_path / "s-08.tar", {"a.mp4": video, "a.cls": b"3\n", **others})
    write_tar(tmp_path / "s-09.tar", {"d/b.mp4": video, "d/b.json": json.dumps({"label": "run"}).encode()})
    write_tar(tmp_path / "s-10.tar", {"c.avi": b"damaged", "e.txt": b"no video"})
    source = open_source(str(tmp_path / "s-{08..10}.tar"))
    assert source.entries == (VideoEntry("s-08/a", "3"), VideoEntry("s-09/d/b", "run"), VideoEntry("s-10/c"))
    for index in (1, 0):
        assert source.probe(index).frames == 7
        assert numbers_of(source.read(index, np.array([1, 6]), AS_IS)) == [1, 6]
    with pytest.raises(DecodeFailure, match="unreadable"):
        source.probe(2)
    assert open_source(str(tmp_path)).entries == source.entries


def test_a_missing_shard_is_named(tmp_path: Path, video: bytes) -> None:
    write_tar(tmp_path / "s-0.tar", {"a.mp4": video})
    with pytest.raises(DataError, match=r"s-1\.tar: no such tar shard"):
        open_source(str(tmp_path / "s-{0..1}.tar"))


def test_what_webdataset_writes(tmp_path: Path, video: bytes) -> None:
    writer = pytest.importorskip("webdataset").TarWriter(str(tmp_path / "w.tar"), encoder=False)
    for key in ("0001", "0002"):
        writer.write({"__key__": key, "mp4": video, "cls": b"5"})
    writer.close()
    source = open_source(str(tmp_path / "w.tar"))
    assert source.entries == (VideoEntry("w/0001", "5"), VideoEntry("w/0002", "5"))
    assert numbers_of(source.read(1, np.array([3]), AS_IS)) == [3]


class Bomb:
    """What unpickling would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", ["pkl", "pickle", "pyd", "pth", "pt", "PKL", "pkl.mp4", "joblib"])
def test_pickles_are_refused(tmp_path: Path, video: bytes, suffix: str) -> None:
    touched = tmp_path / "touched"
    write_tar(tmp_path / "a.tar", {"a.mp4": video, f"b.{suffix}": pickle.dumps(Bomb(touched))})
    with pytest.raises(DataError, match=rf"a\.tar: member 'b\.{suffix}' is a pickle"):
        open_source(str(tmp_path / "a.tar"))
    assert not touched.exists()


@pytest.mark.parametrize("name", ["../a.mp4", "/etc/a.mp4", "x/../../a.mp4", "a" * 300 + ".mp4"])
def test_members_that_lead_out_are_refused(tmp_path: Path, video: bytes, name: str) -> None:
    write_tar(tmp_path / "a.tar", {name: video})
    with pytest.raises(DataError, match="leads out of the shard"):
        open_source(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("a.mp4")
        info.type, info.linkname = kind, "/etc/hostname"
        tar.addfile(info)
    with pytest.raises(DataError, match=r"member 'a\.mp4' is a link, a device or sparse"):
        open_source(str(tmp_path / "a.tar"))


def test_a_cut_shard_is_noticed_wherever_it_is_cut(tmp_path: Path, video: bytes) -> None:
    """tarfile itself ends without a word where a shard is cut between two members."""
    write_tar(tmp_path / "a.tar", {"a.mp4": video, "b.mp4": video})
    whole = (tmp_path / "a.tar").read_bytes()
    member = 512 + (len(video) + 511) // 512 * 512
    for size in (member, member + 100, member + 512, member + 700, 2 * member, 300):
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut\.tar"):
            open_source(str(tmp_path / "cut.tar"))


def test_compressed_shards_are_refused(tmp_path: Path, video: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.mp4"))
    with pytest.raises(DataError, match="uncompressed"):
        open_source(str(tmp_path / "a.tar"))


def test_a_huge_label_is_refused(tmp_path: Path, video: bytes) -> None:
    write_tar(tmp_path / "a.tar", {"a.mp4": video, "a.json": b" " * (2 << 20)})
    with pytest.raises(DataError, match=r"a\.json.*limit"):
        open_source(str(tmp_path / "a.tar"))
