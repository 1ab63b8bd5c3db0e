"""WebDataset shards: named, grouped and read as webdataset does; harmful members are refused."""

from __future__ import annotations

import io
import json
import pickle  # noqa: TID251 - to write what must not be unpickled
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_videos import HEIGHT, WIDTH, numbers_of, write_numbered
from webdataset import shardlists
from webdataset.writer import ShardWriter, TarWriter
from webdataset_samples import read_samples

from tokenreel.data.decoding.messages import receive, send
from tokenreel.data.sources.base import VideoEntry
from tokenreel.data.sources.file_slice import FileSlice
from tokenreel.data.sources.open import SOURCES, open_source
from tokenreel.data.sources.tar_shards import expand_shards, index_shard
from tokenreel.data.spec import Framing
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.errors import DataError
from tokenreel.registry import registrations

AS_IS = Framing(HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    write_numbered(path, 7)
    return path.read_bytes()


Members = dict[str, bytes] | Iterable[tuple[str, bytes]]


def write_tar(path: Path, members: Members, format: int = tarfile.DEFAULT_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_a_range_of_shards_is_read(tmp_path: Path, video: bytes) -> None:
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


def test_missing_shards_are_counted(tmp_path: Path, video: bytes) -> None:
    write_tar(tmp_path / "s-0.tar", {"a.mp4": video})
    with pytest.raises(DataError, match=r"s-1\.tar: no such tar shard \(and 8 others of the 10 named\)"):
        open_source(str(tmp_path / "s-{0..9}.tar"))


@pytest.mark.parametrize("folder", ["set {2024}", "set {1..2}", "set.tar", "{a,b}.tar"])
def test_braces_of_what_exists_are_no_pattern(tmp_path: Path, video: bytes, folder: str) -> None:
    (tmp_path / folder).mkdir()
    write_tar(tmp_path / folder / "x {1..2}.tar", {"a.mp4": video})
    np.save(tmp_path / folder / "b.npy", np.zeros((2, 5, 7, 3), np.uint8))
    for location in (folder, f"{folder}/x {{1..2}}.tar"):
        assert open_source(str(tmp_path / location)).entries == (VideoEntry("x {1..2}/a"),)
    assert [entry.id for entry in open_source(str(tmp_path / folder / "b.npy")).entries] == ["b"]
    with pytest.raises(DataError, match=r"no such file or folder; did you mean 'b\.npy'"):
        open_source(str(tmp_path / folder / "bb.npy"))


def test_shards_written_by_webdataset_are_read(tmp_path: Path, video: bytes) -> None:
    with TarWriter(str(tmp_path / "w.tar"), encoder=False) as writer:
        for key in ("0001", "0002"):
            writer.write({"__key__": key, "mp4": video, "cls": b"5"})
    source = open_source(str(tmp_path / "w.tar"))
    assert source.entries == (VideoEntry("w/0001", "5"), VideoEntry("w/0002", "5"))
    assert numbers_of(source.read(1, np.array([3]), AS_IS)) == [3]


def as_we_read(shard: Path) -> list[tuple[str, dict[str, bytes]]]:
    """As `read_samples`, but from the headers, with each member read at its offset."""
    samples = []
    for key, sample in index_shard(shard).items():
        bodies = {}
        for suffix, member in sample.items():
            with FileSlice(shard, member.offset, member.size) as body:
                bodies[suffix] = body.read()
        samples.append((key, bodies))
    return samples


NAMES = (
    "plain.mp4", "plain.cls", "plain.json",
    "many.left.png", "many.right.png", "many.TXT", "many.",
    "v1.2/clip.set/a.b/one.mp4", "v1.2/clip.set/a.b/one.seg.mp4", "v1.2/clip.set/a.b/two.mp4",
    "./dotted/x.mp4", "./dotted/x.cls",
    "README", "v1.2/LICENSE",  # without a dot in the file name: not part of a sample
    "long/" + "folder/" * 17 + "n" * 61 + ".mp4", "long/" + "folder/" * 17 + "n" * 61 + ".cls",
    "größe/ä.mp4", "größe/ä.cls",
    "__index__/a.mp4", "__meta__",
    "last.mp4",
)  # fmt: skip


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_grouped_as_webdataset_groups_them(tmp_path: Path, format: int) -> None:
    generator = np.random.default_rng(format)
    members = [(name, generator.bytes(int(generator.integers(0, 2000)))) for name in NAMES]
    write_tar(tmp_path / "a.tar", members, format)
    expected = read_samples(tmp_path / "a.tar")
    assert len(expected) == 8  # keys
    assert sum(len(sample) for _, sample in expected) == len(NAMES) - 4
    assert as_we_read(tmp_path / "a.tar") == expected


def test_shards_of_webdatasets_writer_are_grouped_as_webdataset_groups_them(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    with ShardWriter(str(tmp_path / "s-%03d.tar"), maxcount=3, encoder=False, verbose=0) as writer:
        for number in range(11):
            names = ("mp4", "flow.npy", "json")[: number % 3 + 1]
            bodies = {name: generator.bytes(int(generator.integers(0, 1500))) for name in names}
            writer.write({"__key__": f"part.{number % 2}/{number:05d}", **bodies})
    shards = expand_shards(str(tmp_path / "s-{000..003}.tar"))
    assert [shard.name for shard in shards] == ["s-000.tar", "s-001.tar", "s-002.tar", "s-003.tar"]
    expected = [sample for shard in shards for sample in read_samples(shard)]
    assert [key for key, _ in expected] == [f"part.{number % 2}/{number:05d}" for number in range(11)]
    assert [sample for shard in shards for sample in as_we_read(shard)] == expected


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{a,b}-{1..2}.tar", ["a-1", "a-2", "b-1", "b-2"]),
        ("a-{08..10}.tar", ["a-08", "a-09", "a-10"]),
        ("a-1.tar::b-{1..2}.tar", ["a-1", "b-1", "b-2"]),
        ("./12:30.tar", ["12:30"]),
        ("x\\{1.tar", ["x{1"]),
    ],
)
def test_names_of_shards_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, names: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in names:
        Path(f"{name}.tar").touch()
    assert expand_shards(pattern) == [Path(f"{name}.tar") for name in names]


def test_an_unclosed_brace_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Unbalanced braces"):
        open_source(str(tmp_path / "a-{0..1.tar"))


@pytest.mark.parametrize(
    "location",
    [
        "pipe:touch TOUCHED",
        "pipe:touch TOUCHED #.tar",
        "pipe:touch TOUCHED #{0..1}.tar",
        "{pipe:touch TOUCHED #,b}.tar",
        "LOCAL::pipe:touch TOUCHED #.tar",
        "file:LOCAL",
        "http://127.0.0.1:9/a-{0..1}.tar",
        "https://127.0.0.1:9/a.tar",
        "s3://bucket/a.tar",
        "${HOME}/a-{0..1}.tar",
    ],
)
def test_urls_and_pipes_are_refused_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, video: bytes, location: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("webdataset was asked to open something")

    monkeypatch.setattr(sys.modules["webdataset.gopen"], "gopen", fail)
    if "{pipe" not in location:  # where only expansion gives a scheme, names are expanded, and not found
        monkeypatch.setattr(shardlists, "expand_urls", fail)
    write_tar(tmp_path / "a.tar", {"a.mp4": video})
    location = location.replace("TOUCHED", str(tmp_path / "touched")).replace("LOCAL", str(tmp_path / "a.tar"))
    with pytest.raises(DataError, match=r"URL or a pipe|no such|variables are not expanded"):
        open_source(location)
    assert not (tmp_path / "touched").exists()


def test_ambiguous_samples_are_refused(tmp_path: Path, video: bytes) -> None:
    """webdataset would yield two samples of one key, mix two videos, or drop one of two members."""
    harmful = {
        r"contains several videos, 'v\.1\.mp4' and 'v\.2\.mp4'": [("v.1.mp4", video), ("v.2.mp4", video)],
        "members of the sample 'a' are not adjacent": [("a.mp4", video), ("b.mp4", video), ("a.cls", b"1")],
        "duplicate file name": [("a.mp4", video), ("a.MP4", video)],
    }
    for message, members in harmful.items():
        write_tar(tmp_path / "a.tar", members)
        with pytest.raises(DataError, match=rf"a\.tar: .*{message}"):
            open_source(str(tmp_path / "a.tar"))


def test_a_decode_worker_reads_shards_without_torch(tmp_path: Path, video: bytes) -> None:
    """webdataset imports torch if it is installed, which costs seconds and 190 MB for each worker."""
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", {"a.mp4": video})
    command = [sys.executable, "-m", "tokenreel.data.decoding.worker", str(tmp_path / "{a,b}.tar"), "4"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        send(worker.stdin.fileno(), registrations([SOURCES]))
        ready, _ = receive(worker.stdout.fileno())
        mapped = Path(f"/proc/{worker.pid}/maps").read_text()
        worker.stdin.close()
    assert ready["digest"] == open_source(str(tmp_path)).digest
    assert "torch" not in mapped


class Bomb:
    """An object whose unpickling has a side effect."""

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


@pytest.mark.parametrize("name", ["../a.mp4", "/etc/a.mp4", "x/../../a.mp4"])
def test_members_outside_the_folder_are_refused(tmp_path: Path, video: bytes, name: str) -> None:
    write_tar(tmp_path / "a.tar", {name: video})
    with pytest.raises(DataError, match="leads out of the shard"):
        open_source(str(tmp_path / "a.tar"))


def test_a_member_in_deep_folders_is_read(tmp_path: Path, video: bytes) -> None:
    name = "folder/" * 50 + "n" * 251
    write_tar(tmp_path / "a.tar", {f"{name}.mp4": video})
    source = open_source(str(tmp_path / "a.tar"))
    assert source.entries == (VideoEntry(f"a/{name}"),)
    assert numbers_of(source.read(0, np.array([2]), AS_IS)) == [2]


@pytest.mark.parametrize("name", ["a" * 300 + ".mp4", "folder/" * 1000 + "a.mp4"])
def test_a_name_that_is_too_long_is_called_so(tmp_path: Path, video: bytes, name: str) -> None:
    write_tar(tmp_path / "a.tar", {name: video})
    with pytest.raises(DataError, match=f"is too long: {len(name)} characters"):
        open_source(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("a.mp4")
        info.type, info.linkname = kind, "/etc/hostname"
        tar.addfile(info)
    with pytest.raises(DataError, match=r"member 'a\.mp4' is a link, a device or sparse"):
        open_source(str(tmp_path / "a.tar"))


def test_a_truncated_shard_is_detected_at_any_length(tmp_path: Path, video: bytes) -> None:
    """tarfile itself does not report a shard that is truncated between two members."""
    write_tar(tmp_path / "a.tar", {"a.mp4": video, "b.mp4": video})
    intact = (tmp_path / "a.tar").read_bytes()
    member = 512 + (len(video) + 511) // 512 * 512
    for size in (member, member + 100, member + 512, member + 700, 2 * member, 300):
        (tmp_path / "cut.tar").write_bytes(intact[:size])
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


@pytest.mark.parametrize(
    "pattern", ["s-{0..9999999999}.tar", "s-{0..9999}-{0000..9999}.tar", "s" + "{a,b}" * 40 + ".tar"]
)
def test_a_pattern_of_more_shards_than_there_can_be_is_refused_before_it_is_expanded(pattern: str) -> None:
    with pytest.raises(DataError, match=r"names 1e\+\d+ shards|names 1\.1e\+12 shards"):
        expand_shards(pattern)


def test_several_patterns_are_counted_one_by_one() -> None:
    with pytest.raises(DataError, match="others of the 120000 named"):
        expand_shards("::".join(f"{name}-{{00000..59999}}.tar" for name in "ab"))
