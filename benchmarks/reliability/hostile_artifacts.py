"""Attacks by what commands write and exchange: caches, saved models, settings, repositories."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tokenreel.benchmarks.reliability import hostile_files as files
from tokenreel.benchmarks.reliability.attack import Attack
from tokenreel.benchmarks.reliability.hostile_data import DEEP, ESCAPE
from tokenreel.benchmarks.reliability.hostile_hub import ATTACKS as HUB_ATTACKS
from tokenreel.benchmarks.reliability.hostile_hub import serve_hostile_hub
from tokenreel.benchmarks.reliability.project import Project
from tokenreel.config import sha256_json
from tokenreel.data.cache.documents import metadata_documents, root_json
from tokenreel.data.cache.files import readable_json
from tokenreel.data.cache.layout import MAX_ROWS, CacheHeader


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
