"""Attacks by data sets: arrays, archives, tables, names and videos."""

from __future__ import annotations

import io
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from PIL import Image

from tokenreel.benchmarks.reliability import hostile_files as files
from tokenreel.benchmarks.reliability.attack import Attack, inspect, one_video, tokenize
from tokenreel.benchmarks.reliability.project import Project

DEEP = "[" * 100_000


READ_DESPITE = ("mp4 whose moov claims 4 GiB", "mp4 of 2^32 chunks")  # FFmpeg reads what is there


ESCAPE = "\x1b]0;owned\x07\x1b[2J"


CLAIMS: Mapping[str, Callable[[Path], None]] = {
    "npy of 10^10 videos": files.npy_of(files.HUGE),
    "npy of 2^124 bytes": files.npy_of((2**62, 2**62, 5, 3)),
    "npy without bytes": files.npy_of((10**10, 0, 5, 7, 3)),
    "npy of negative axes": files.npy_of((-2, -2, 5, 7, 3)),
    "npy with a header of 4 GiB": files.npy_with_long_header,
    "npz of 10^10 videos": files.npz_of(files.HUGE),
    "npz without bytes": files.npz_of((10**10, 0, 5, 7, 3)),
    "npz with 10^10 labels": files.npz_of((10**10,), "<U99", "labels"),
    "npz with a forged directory": files.npz_with_a_forged_directory,
    "npz with a long header": files.npz_with_long_header,
    "npz that inflates to 1.2 GiB": files.npz_of_a_large_array,
    "npz of bzip2": files.npz_of_another_compression,
    "npz with labels of 400 MB": files.npz_of_long_labels,
    "HDF5 that was never written": files.hdf5_never_written,
    "HDF5 without values": files.hdf5_without_values,
    "HDF5 of 10^10 videos": files.hdf5_of_many_videos,
    "HDF5 that was partly written": files.hdf5_partly_written,
    "HDF5 of huge chunks": files.hdf5_of_huge_chunks,
    "HDF5 with 10^10 labels": files.hdf5_of_many_labels,
    "HDF5 with labels of 2 GB": files.hdf5_of_long_labels,
    "HDF5 of 10^12 paths": files.hdf5_of_linked_groups,
    "tar with a pax header of 5 GiB": files.tar_with_long_header(tarfile.XHDTYPE),
    "tar with a GNU name of 5 GiB": files.tar_with_long_header(tarfile.GNUTYPE_LONGNAME),
}


def claims(folder: Path) -> Iterator[Attack]:
    for number, (name, write) in enumerate(CLAIMS.items()):
        write(folder / f"claim-{number}")
        (path,) = folder.glob(f"claim-{number}.*")
        yield inspect(name, path)
    for name, length in (("2^63 bytes", 2**63), ("5 GiB", 5 << 30)):
        path = folder / f"{length}.tfrecord"
        head = struct.pack("<Q", length)
        crc = google_crc32c.value(head)
        files.hole(path, head + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF), 4096)
        yield inspect(f"TFRecord of {name}", path)
    for suffix in (".npz", ".npy", ".h5", ".tar", ".tfrecord"):
        path = folder / f"hole{suffix}"
        files.hole(path)
        yield inspect(f"{suffix} of a hole of 5 GiB", path)


def tars(folder: Path) -> Iterator[Attack]:
    def member(name: str, data: bytes = b"x", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for field, value in fields.items():
            setattr(info, field, value)
        return info, data

    link = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0}
    shards = {
        "tar with a path that leads out": [member("../../out.mp4")],
        "tar with an absolute path": [member("/etc/cron.d/x.mp4")],
        "tar with a link": [member("a.mp4", b"", **link)],
        "tar with a pickle": [member("a.pkl", b"\x80\x04N.")],
        "tar with JSON that is deeply nested": [member("a.mp4"), member("a.json", DEEP.encode())],
        "tar with a class of 2 MB": [member("a.mp4"), member("a.cls", b"x" * (2 << 20))],
        "tar with an escape as a name": [member(f"{ESCAPE}.mp4")],
    }
    for number, (name, members) in enumerate(shards.items()):
        path = folder / f"members-{number}.tar"
        with tarfile.open(path, "w") as tar:
            for info, data in members:
                tar.addfile(info, io.BytesIO(data))
        yield inspect(name, path, refused="escape" not in name and "pickle" not in name)
    path = folder / "claims.tar"
    path.write_bytes(member("a.mp4", size=8 << 30)[0].tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    yield inspect("tar whose member claims 8 GiB", path)


def texts(folder: Path) -> Iterator[Attack]:
    written = {
        "metadata.jsonl that is deeply nested": ("metadata.jsonl", DEEP),
        "metadata.jsonl with a number of a million digits": ("metadata.jsonl", '{"label": ' + "9" * 1_000_000 + "}"),
        "metadata.jsonl that leads out": ("metadata.jsonl", '{"file_name": "../../etc/passwd"}'),
        "metadata.csv that leads out": ("metadata.csv", "file_name,label\n/etc/passwd,x\n"),
        "metadata.csv of a long field": ("metadata.csv", f'file_name,label\n"{"x" * 1_000_000}",y\n'),
        "metadata.csv that never closes a quote": ("metadata.csv", 'file_name,label\n"' + "a\n" * 1_000_000),
        "metadata.csv that is not text": ("metadata.csv", "\udcff\udcfe"),
    }
    for number, (name, (file, text)) in enumerate(written.items()):
        data = one_video(folder / f"text-{number}")
        (data / file).write_text(text, errors="surrogateescape")
        yield inspect(name, data)
    for file in ("metadata.csv", "metadata.jsonl", "states.csv"):
        data = one_video(folder / f"hole-{file}")
        files.hole(data / file)
        yield inspect(f"{file} of a hole of 5 GiB", data, refused=file.startswith("metadata"))


def names(folder: Path) -> Iterator[Attack]:
    data = one_video(folder / "escapes")
    shutil.copy(data / "a.mp4", data / f"{ESCAPE}.mp4")
    yield inspect("a file named as an escape", data, refused=False)
    loop = one_video(folder / "loop")
    (loop / "again").symlink_to(loop)
    yield inspect("a folder that links to itself", loop, refused=False)
    many = one_video(folder / "links")
    inner = many
    for level in range(12):  # 10^12 paths
        outer = folder / f"links-{level}"
        outer.mkdir()
        for link in range(2):
            (outer / str(link)).symlink_to(inner)
        inner = outer
    yield inspect("folders that link to folders, 4,096 paths", inner, refused=False)
    away = one_video(folder / "away")
    (away / "secret.mp4").symlink_to("/etc/passwd")
    yield inspect("a link to a file elsewhere", away, refused=False)
    yield Attack("braces of 10^12 shards", ["inspect", "--data", str(folder / "s-{000000000000..999999999999}.tar")])
    yield Attack("a path of 100,000 characters", ["inspect", "--data", "x" * 100_000])
    yield Attack("a repository that leads out", ["inspect", "../../../etc"])


def videos(folder: Path, project: Project) -> Iterator[Attack]:
    """Files that only decoding shows: they must not end the job of intact ones, so they are its only ones."""

    def png(width: int, height: int, rows: bytes) -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

    endless = b"\x01" + b"\xff" * 7
    clip = one_video(folder / "clip") / "a.mp4"
    content = clip.read_bytes()
    bomb = zlib.compress(bytes(100 << 20), 9)
    gif = io.BytesIO()
    Image.new("P", (16, 16)).save(gif, "GIF", save_all=True, append_images=[Image.new("P", (16, 16), 1)] * 8)
    canvas = bytearray(gif.getvalue())
    canvas[6:10] = b"\xff\xff\xff\xff"  # 65,535 x 65,535
    pictures = {
        "png of 2^31 x 2^31": png(2**31 - 1, 2**31 - 1, bomb[:1000]),
        "png of 60,000 x 60,000": png(60_000, 60_000, bomb),
        "png with 100 MB behind 16 x 16": png(16, 16, bomb),
    }
    for number, (name, data) in enumerate(pictures.items()):
        frames = folder / f"frames-{number}" / "clip"
        frames.mkdir(parents=True)
        for frame in range(9):
            (frames / f"{frame:03}.png").write_bytes(data)
        yield tokenize(name, frames.parent, project, refused="behind" not in name)
    damaged = {
        "gif of 65,535 x 65,535": ("x.gif", bytes(canvas)),
        "mp4 whose moov claims 4 GiB": ("x.mp4", replaced(content, b"moov", -4, b"\xff\xff\xff\xff")),
        "mp4 of 2^32 samples": ("x.mp4", replaced(content, b"stsz", 8, b"\xff\xff\xff\xff" * 2)),
        "mp4 of 2^32 entries of time": ("x.mp4", replaced(content, b"stts", 8, b"\xff\xff\xff\xff")),
        "mp4 of 2^32 chunks": ("x.mp4", replaced(content, b"stco", 8, b"\xff\xff\xff\xff")),
        "mp4 of a time of 2^31 seconds": ("x.mp4", replaced(content, b"stts", 16, b"\x7f\xff\xff\xff")),
        "mp4 that is only a header": ("x.mp4", content[:32]),
        "a playlist that names another file": ("x.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"),
        "a concat list": ("x.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"),
        "Matroska of endless segments": ("x.mkv", b"\x1aE\xdf\xa3%b\x18\x53\x80\x67%b" % (endless, endless)),
    }
    for number, (name, (file, data)) in enumerate(damaged.items()):
        source = folder / f"video-{number}"
        source.mkdir()
        (source / file).write_bytes(data)
        yield tokenize(name, source, project, refused=name not in READ_DESPITE)
    source = folder / "video-hole"
    source.mkdir()
    files.hole(source / "x.mp4", content)
    yield tokenize("mp4 before a hole of 5 GiB", source, project, refused=False)
    bomb_npz = folder / "zeros.npz"
    np.savez_compressed(bomb_npz, data=np.zeros((200, 8, 256, 256, 3), np.uint8))
    yield tokenize("npz of 300 MB of zeros in 300 kB", bomb_npz, project, refused=False)


def replaced(content: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """`content` with other bytes at an offset from the name of an MP4 box."""
    at = content.index(box) + offset
    return content[:at] + value + content[at + len(value) :]
