"""What is damaged: folders of every kind that we write, and how each is used, a function from the folder to a result.

A result holds all that is computed with: tokens, columns, weights, the state that training continues from. What only
people read, such as a model's card, is not part of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenreel.benchmarks.reliability.project import Project
from tokenreel.benchmarks.reliability.tally import Outcome
from tokenreel.data.cache.documents import CacheDocuments
from tokenreel.data.cache.files import readable_json
from tokenreel.data.cache.manifest import MANIFEST, Commit, InvalidRow, commit_key
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.cache.verify import verify_cache
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import UserError
from tokenreel.hub import fingerprint
from tokenreel.pipelines.training.checkpoint import list_checkpoints, newest_checkpoint
from tokenreel.pipelines.training.run_folder import RunFolder, RunIdentity
from tokenreel.priors.base import Prior
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.controls.controls import Controls

SPEC = TokenSpec((StreamSpec("top", (2, 2, 3), 13), StreamSpec("video", (2, 3, 5), 70_001, 2)), 2, Framing(5, 7))
ROWS = 61
INVALID = {0: (InvalidRow(3, "truncated", "cut off"),)}  # by shard, of the unsealed cache


@dataclass(frozen=True)
class Subject:
    """`use` returns the result as a hash, and raises UserError for damage; it may change the folder."""

    name: str
    folder: Path
    use: Callable[[Path], str]
    lose: Callable[[Path], None] | None = None  # takes away what a warning may say is skipped: the newest checkpoint
    changes: bool = False  # whether `use` writes


def subjects(folder: Path) -> list[Subject]:
    """Makes one folder of each kind."""
    project = Project(folder / "project").make()
    sealed, unsealed, training = folder / "sealed", folder / "unsealed", folder / "training"
    write_cache(sealed, seed=0)
    unseal(shutil.copytree(sealed, unsealed))
    shutil.copytree(project.run, training, ignore=shutil.ignore_patterns("samples", "*.safetensors.*"))
    return [
        Subject("sealed cache", sealed, read_cache),
        Subject("cache of videos", project.cache, read_cache),
        Subject("token file of samples", project.samples, read_cache),
        Subject("unsealed cache, continued", unsealed, finish_cache, changes=True),
        Subject("tokenizer", project.tokenizer, load(VideoTokenizer)),
        Subject("prior", project.prior, load(Prior)),
        Subject("controls", project.controls, load(Controls)),
        Subject("run and its checkpoints", training, resume(training), lose=lose_newest_checkpoint),
    ]


def hashed(*values: Any) -> str:
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        else:
            digest.update(json.dumps(value, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def write_cache(path: Path, seed: int) -> None:
    """A cache of two streams in several shards, with labels and splits."""
    random = np.random.default_rng(seed)
    tokens = {s.name: random.integers(0, s.codebook_size, (ROWS, *s.shape)) for s in SPEC.streams}
    sources = [{"id": f"{seed}-{row}", "label": row % 3, "split": ("train", "test")[row % 2]} for row in range(ROWS)]
    write_token_file(path, SPEC, tokens, f"fingerprint {seed}", sources, plan={"classes": ["a", "b", "c"]})


def unseal(path: Path) -> None:
    """As it was before the last shard was written; a row of the first one did not decode."""
    header = TokenCache.open(path).header
    first = Commit.load(path, 0, header)
    first = dataclasses.replace(first, invalid=INVALID[0])
    (path / commit_key(0)).write_bytes(readable_json(first.to_json()))
    (path / MANIFEST).unlink()
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["tokenreel"] |= {"state": "building", "cache_id": None}
    (path / "zarr.json").write_text(json.dumps(root, sort_keys=True, indent=1) + "\n")
    (path / commit_key(header.shards - 1)).unlink()


def read_cache(path: Path, partial: bool = False) -> str:
    """Everything that a cache gives to its readers."""
    cache = TokenCache.open(path, allow_partial=partial)
    rows = cache.rows()
    columns = [cache.column(name) for name in ("valid", "label", "source", "first_frame")]
    about = [cache.header.to_json(), cache.cache_id, cache.plan, cache.source_ids(rows), cache.classes]
    return hashed(*about, rows, *columns, *cache.read(rows).values())


def finish_cache(path: Path) -> str:
    """Reads what is there, verifies it, writes the shards that are missing, seals, and reads the whole."""
    read_cache(path, partial=True)
    verify_cache(path)
    documents = CacheDocuments.load(path)
    writer = CacheWriter(path, documents.header)
    random, rows = np.random.default_rng(0), np.arange(ROWS)
    arrays: dict[str, np.ndarray] = {"valid": np.ones(ROWS, np.uint8), "label": rows % 3, "source": rows}
    arrays["first_frame"] = 0 * rows
    for stream in SPEC.streams:
        arrays[stream.name] = random.integers(0, stream.codebook_size, (ROWS, *stream.shape))
    for shard in writer.pending():
        part = writer.header.columns["valid"].rows_of(shard)
        writer.put(
            shard, {name: values[part.start : part.stop] for name, values in arrays.items()}, INVALID.get(shard, ())
        )
    if writer.seal() is None:
        raise UserError("a shard was damaged, and is written again by the next call")
    return read_cache(path)


def load(kind: type[Any]) -> Callable[[Path], str]:
    def use(path: Path) -> str:
        model = kind.from_pretrained(path)
        return str(fingerprint(model.to_document(), model.state_dict()))

    return use


def resume(run: Path) -> Callable[[Path], str]:
    """What a run continues from: step, weights, state of the order; the model that it exported."""
    document = json.loads((run / "run.json").read_text())
    data = document["data"]
    identity = RunIdentity(document["command"], document["config"], data["identity"], data["path"])

    def use(path: Path) -> str:
        RunFolder.open(path, identity)
        checkpoint = newest_checkpoint(path / "checkpoints")
        assert checkpoint is not None
        tensors = {f"{f}/{name}": t for f, named in checkpoint.tensors.items() for name, t in named.items()}
        model = load(Prior)(path)
        return hashed(checkpoint.step, checkpoint.state, fingerprint({}, tensors), model)

    return use


def lose_newest_checkpoint(run: Path) -> None:
    shutil.rmtree(list_checkpoints(run / "checkpoints")[-1])


class Judge:
    """Uses a damaged folder and says what came of it."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._warned: list[str] = []
        self._expected = self._use(self._copied(subject.folder) if subject.changes else subject.folder)
        self._fallback: str | None = None  # the result where a warning says that something is skipped
        if subject.lose is not None:
            less = self._copied(subject.folder)
            subject.lose(less)
            self._fallback = self._use(less)
            shutil.rmtree(less)
            assert self._fallback != self._expected

    def __call__(self, folder: Path) -> tuple[Outcome, str]:
        self._warned.clear()
        try:
            found = self._use(folder)
        except UserError:
            return Outcome.NOTICED, ""
        except Exception as error:
            return Outcome.TRACEBACK, f"{type(error).__name__}: {str(error)[:200]}"
        if found == self._expected:
            return Outcome.HARMLESS, ""
        return (Outcome.NOTICED, "") if self._warned and found == self._fallback else (Outcome.SILENT, "another result")

    def _use(self, folder: Path) -> str:
        handler = _Collect(self._warned)
        logging.getLogger("tokenreel").addHandler(handler)
        try:
            with torch.no_grad():
                return self.subject.use(folder)
        finally:
            logging.getLogger("tokenreel").removeHandler(handler)

    def _copied(self, folder: Path) -> Path:
        return shutil.copytree(folder, folder.with_name("undisturbed"), dirs_exist_ok=True)


class _Collect(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())


def files_of(folder: Path) -> Mapping[str, bytes]:
    """Content of all files by their paths."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.name != ".lock"}
