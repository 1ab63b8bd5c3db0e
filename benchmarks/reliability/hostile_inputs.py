"""The attacks: small inputs of every kind that a command reads, which claim, nest, lead out or never end."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np
from PIL import Image

from tokenreel.benchmarks.reliability import hostile_files as files
from tokenreel.benchmarks.reliability.hostile_hub import ATTACKS as HUB_ATTACKS
from tokenreel.benchmarks.reliability.hostile_hub import serve_hostile_hub
from tokenreel.benchmarks.reliability.project import Project
from tokenreel.config import sha256_json
from tokenreel.data.cache.documents import metadata_documents, root_json
from tokenreel.data.cache.files import readable_json
from tokenreel.data.cache.layout import MAX_ROWS, CacheHeader
from tokenreel.data.video.writer import write_video

DEEP = "[" * 100_000
READ_DESPITE = ("mp4 whose moov claims 4 GiB", "mp4 of 2^32 chunks")  # FFmpeg reads what is there
ESCAPE = "\x1b]0;owned\x07\x1b[2J"


@dataclass(frozen=True)
class Attack:
    name: str
    arguments: list[str]
    refused: bool = True  # False where the right result is as good as an error
    intact: bool = False  # no attack, and must be accepted
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)  # variables besides those of this process


def attacks(folder: Path) -> Iterator[Attack]:
    """Each is made when it is asked for."""
    project = Project(folder / "project").make()
    hostile = folder / "hostile"
    hostile.mkdir()
    yield from intact(hostile, project)
    yield from claims(hostile)
    yield from tars(hostile)
    yield from texts(hostile)
    yield from names(hostile)
    yield from videos(hostile, project)
    yield from caches(hostile, project)
    yield from models(hostile, project)
    yield from settings(hostile, project)
    yield from downloads(hostile, project)


def intact(folder: Path, project: Project) -> Iterator[Attack]:
    """What the attacks are made from, for each command: their refusals count only if these are accepted."""
    data, arrays = one_video(folder / "intact"), np.zeros((2, 9, 16, 16, 3), np.uint8)
    (data / "metadata.csv").write_text("file_name,label\na.mp4,x\n")
    np.save(folder / "intact.npy", arrays)
    np.savez(folder / "intact.npz", data=arrays, labels=np.array(["x", "y"]))
    with h5py.File(folder / "intact.h5", "w") as file:
        file["data"] = arrays
    with tarfile.open(folder / "intact.tar", "w") as tar:
        tar.add(data / "a.mp4", "a.mp4")
    pictures = folder / "intact-frames/clip"
    pictures.mkdir(parents=True)
    for number, frame in enumerate(arrays[0]):
        Image.fromarray(frame).save(pictures / f"{number:03}.png")
    (folder / "intact.yaml").write_text("prior: {depth: 1}\n")
    names = ("intact", *(f"intact{suffix}" for suffix in (".npy", ".npz", ".h5", ".tar")))
    made = [inspect(name, folder / name) for name in names]
    made += [tokenize(name, folder / name, project) for name in ("intact", "intact-frames", "intact.npz")]
    folders = (project.cache, project.prior, project.tokenizer)
    made += [Attack(f"intact {path.name}", ["verify", str(path)]) for path in folders]
    train = [*project.train(folder / "intact-run"), "--config", str(folder / "intact.yaml")]
    made += [Attack("intact run", project.train(project.run)), Attack("intact.yaml", train)]
    yield from (dataclasses.replace(attack, refused=False, intact=True) for attack in made)


def inspect(name: str, path: Path, refused: bool = True) -> Attack:
    return Attack(name, ["inspect", "--data", str(path)], refused)


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
        "metadata.csv that is no text": ("metadata.csv", "\udcff\udcfe"),
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


def one_video(folder: Path) -> Path:
    folder.mkdir()
    write_video(folder / "a.mp4", np.zeros((9, 16, 16, 3), np.uint8), 10)
    return folder


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


def tokenize(name: str, data: Path, project: Project, refused: bool = True) -> Attack:
    out = data.with_name(f"{data.name}.tokens")
    arguments = ["--tokenizer", str(project.tokenizer), "--data", str(data), "--out", str(out), "--device", "cpu"]
    return Attack(name, ["tokenize-dataset", *arguments, "--allow-collapsed"], refused)


def caches(folder: Path, project: Project) -> Iterator[Attack]:
    def copy(name: str) -> Path:
        return shutil.copytree(project.cache, folder / name)

    for command in ("inspect", "verify"):
        for sealed in (True, False):
            path = copy(f"rows-{command}-{sealed}")
            claim_rows(path, sealed)
            name = f"{command} of a cache of 2^31 rows, {'' if sealed else 'un'}sealed"
            yield Attack(name, [command, str(path)], refused=sealed)  # of the other, no row may be written yet
    for key in ("zarr.json", "plan.json", "manifest.json", "sources.jsonl", "streams/video/zarr.json", "origin.json"):
        path = copy(f"nested-{key.replace('/', '-')}")
        (path / key).write_text('{"a":' * 100_000)
        yield Attack(f"{key} that is deeply nested", ["verify", str(path)])
        path = copy(f"hole-{key.replace('/', '-')}")
        (path / key).unlink()
        files.hole(path / key, b"{", (1 << 30) - 1)
        yield Attack(f"{key} of a hole of 1 GiB", ["verify", str(path)])
    path = copy("link")
    (path / "label/c/0").unlink()
    (path / "label/c/0").symlink_to("/dev/zero")
    yield Attack("a shard that is /dev/zero", ["verify", str(path)])
    path = copy("shard-hole")
    (path / "streams/video/c/0/0/0/0/0").unlink()
    files.hole(path / "streams/video/c/0/0/0/0/0")
    yield Attack("a shard of a hole of 5 GiB", ["verify", str(path)])


def claim_rows(path: Path, sealed: bool) -> None:
    """Makes a cache claim 2^31 - 1 rows, in shards of one, consistently in all metadata."""
    root = json.loads((path / "zarr.json").read_text())["attributes"]["tokenreel"]
    header = CacheHeader.from_json({**root["header"], "rows": MAX_ROWS, "shard_rows": 1})
    for key, document in metadata_documents(header).items():
        (path / key).write_bytes(readable_json(document))
    manifest = {key: json.loads((path / "manifest.json").read_text())[key] for key in ("files", "invalid")}
    manifest["header"] = header.to_json()
    cache_id = sha256_json(manifest) if sealed else None
    (path / "manifest.json").write_bytes(readable_json({**manifest, "cache_id": cache_id}))
    (path / "zarr.json").write_bytes(readable_json(root_json(header, cache_id)))
    if not sealed:
        (path / "manifest.json").unlink()
        shutil.rmtree(path / "commits")


def models(folder: Path, project: Project) -> Iterator[Attack]:
    def changed(name: str, change: Callable[[dict[str, Any]], None], model: Path = project.prior) -> Path:
        path = shutil.copytree(model, folder / name)
        document = json.loads((path / "config.json").read_text())
        change(document)
        (path / "config.json").write_text(json.dumps(document))
        return path

    def set_field(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
        return lambda document: document["config"].update({field: value})

    values = (("depth", 10**9), ("width", 10**9), ("heads", 10**30), ("type", ["gpt"]), ("depth", "x" * 10**6))
    for field, value in values:
        path = changed(f"{field}-{len(str(value))}", set_field(field, value))
        yield Attack(f"a prior whose {field} is {str(value)[:20]}", ["verify", str(path)])
    path = changed("tokenizer-hidden", set_field("hidden", 10**9), project.tokenizer)
    yield Attack("a tokenizer of 10^9 channels", ["verify", str(path)])
    path = changed("escape", lambda document: document.update({"kind": ESCAPE}))
    yield Attack("a kind that is an escape", ["verify", str(path)])
    contents = {"nested": (DEEP, 0), "hole": ("{", (1 << 24) - 1), "large hole": ("{", 5 << 30)}
    for name, (text, size) in contents.items():
        path = shutil.copytree(project.prior, folder / f"config-{name}")
        files.hole(path / "config.json", text.encode(), max(size, len(text)))
        yield Attack(f"config.json: {name}", ["verify", str(path)])
    weights = {
        "a header of 2^63 bytes": struct.pack("<Q", 2**63),
        "a header of 1 GiB": struct.pack("<Q", 1 << 30) + b"{",
        "a tensor of 2^60 bytes": tensors({"w": {"dtype": "F32", "shape": [2**58], "data_offsets": [0, 2**60]}}),
        "a tensor outside": tensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [2**40, 2**40 + 4]}}),
        "nested metadata": struct.pack("<Q", len(DEEP)) + DEEP.encode(),
    }
    for number, (name, data) in enumerate(weights.items()):
        path = shutil.copytree(project.prior, folder / f"weights-{number}")
        (path / "model.safetensors").write_bytes(data)
        yield Attack(f"weights with {name}", ["verify", str(path)])
    path = shutil.copytree(project.prior, folder / "weights-hole")
    files.hole(path / "model.safetensors", struct.pack("<Q", 1 << 20))
    yield Attack("weights of a hole of 5 GiB", ["verify", str(path)])


def tensors(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


def settings(folder: Path, project: Project) -> Iterator[Attack]:
    aliases = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
    )
    texts = {
        "YAML of nested aliases": aliases,
        "YAML that is deeply nested": DEEP,
        "YAML that calls Python": "prior: !!python/object/apply:os.system ['touch owned']\n",
        "YAML with an escape": f'"{ESCAPE.encode("unicode_escape").decode()}": 1\n',
        "YAML of a number of 10^6 digits": "prior: {depth: " + "9" * 10**6 + "}\n",
    }
    for number, (name, text) in enumerate(texts.items()):
        path = folder / f"settings-{number}.yaml"
        path.write_text(text)
        out = folder / f"settings-{number}"
        arguments = ["--cache", str(project.cache), "--config", str(path), "--out", str(out)]
        yield Attack(name, ["train-prior", *arguments])
    path = folder / "hole.yaml"
    files.hole(path, b"prior: ")
    arguments = ["--cache", str(project.cache), "--config", str(path), "--out", str(folder / "never")]
    yield Attack("YAML of a hole of 5 GiB", ["train-prior", *arguments])
    run = shutil.copytree(project.run, folder / "run")
    newest = max((run / "checkpoints").iterdir())
    files.hole(newest / "manifest.json", b'{"a": ')
    train = project.train(run)
    train[train.index("--steps") + 1] = "6"
    yield Attack("a checkpoint's manifest of a hole of 5 GiB", train, refused=False)
    run = shutil.copytree(project.run, folder / "run-metrics")
    files.hole(run / "metrics.jsonl", b"{", 5 << 30)
    yield Attack("metrics.jsonl of a hole of 5 GiB", project.train(run), refused=False)
    run = shutil.copytree(project.run, folder / "run-json")
    (run / "run.json").write_text('{"a":' * 100_000)
    yield Attack("run.json that is deeply nested", project.train(run))


def downloads(folder: Path, project: Project) -> Iterator[Attack]:
    """A Hub that sends without end, claims more than it has, or is silent."""
    address = serve_hostile_hub(project.tokenizer)
    for name, what in {"intact": "a download", **HUB_ATTACKS}.items():
        home = {"HF_ENDPOINT": address, "HF_HOME": str(folder / f"hub-{name}")}
        arguments = ["pull", f"hf://me/{name}", str(folder / f"pulled-{name}")]
        yield Attack(what, arguments, refused=name != "intact", intact=name == "intact", environment=home)
