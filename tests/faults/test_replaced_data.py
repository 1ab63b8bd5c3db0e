"""Data replaced under the same names while a cache is written must not be mixed into it."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from bair_records import record
from PIL import Image

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.sources.content import BLOCK_BYTES, BLOCK_SPACING, FilePart, content_of
from tokenreel.data.sources.open import open_source
from tokenreel.data.spec import Framing
from tokenreel.data.video.writer import write_video
from tokenreel.errors import DataError
from tokenreel.pipelines.commands import tokenize_dataset
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.testing.tokenizers import spread_codes
from tokenreel.tokenizers.base import build_tokenizer

VIDEOS, FRAMES, SIDE = 37, 5, 16  # two shards
TOKENIZER = {"type": "frame-vqvae", "hidden": 16, "residual": 8, "blocks": 1, "downsamplings": 2, "latent": 4}


def make_frames(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def write_folder(root: Path, seed: int) -> str:
    write_video(root / "a.mp4", make_frames(seed, 3, 64, 64), 25)
    write_video(root / "b.mp4", make_frames(7, 3, 64, 64), 25)
    return str(root)


def write_one_video(root: Path, seed: int) -> str:
    write_folder(root, seed)
    return str(root / "a.mp4")


def write_pictures(root: Path, seed: int) -> str:
    for name, of_video in (("a", seed), ("b", 7)):
        (root / name).mkdir()
        for number, frame in enumerate(make_frames(of_video, 3, 16, 16)):
            Image.fromarray(frame).save(root / name / f"{number}.png")
    return str(root)


def write_tar(root: Path, seed: int) -> str:
    write_folder(root, seed)
    with tarfile.open(root / "x.tar", "w") as tar:
        tar.add(root / "b.mp4", "b.mp4")
        tar.add(root / "a.mp4", "a.mp4")
    return str(root / "x.tar")


def write_npy(root: Path, seed: int) -> str:
    np.save(root / "x.npy", make_frames(seed, 2, 3, 16, 16))
    return str(root / "x.npy")


def write_npz(root: Path, seed: int) -> str:
    np.savez_compressed(root / "x.npz", a=make_frames(seed, 3, 16, 16), b=make_frames(7, 3, 16, 16))
    return str(root / "x.npz")


def write_hdf5(root: Path, seed: int) -> str:
    with h5py.File(root / "x.h5", "w") as file:
        file["a"], file["b"] = make_frames(seed, 3, 16, 16), make_frames(7, 3, 16, 16)
    return str(root / "x.h5")


def write_bair(root: Path, seed: int) -> str:
    records = [record(make_frames(of_video, 3, 64, 64)) for of_video in (seed, 7)]
    (root / "x.tfrecords").write_bytes(b"".join(records))
    return str(root / "x.tfrecords")


WRITERS = [write_folder, write_one_video, write_pictures, write_tar, write_npy, write_npz, write_hdf5, write_bair]


@pytest.mark.parametrize("write", WRITERS)
def test_the_content_of_a_video_is_that_of_its_files_and_of_nothing_else(
    tmp_path: Path, write: Callable[[Path, int], str]
) -> None:
    folders = {name: tmp_path / name for name in ("first", "copy", "other")}
    for name, folder in folders.items():
        if name == "copy":
            shutil.copytree(folders["first"], folder)
            for path in folder.rglob("*"):
                os.utime(path, (1, 1))
        else:
            folder.mkdir()
            location = write(folder, 1 + (name == "other"))
    name = Path(location).relative_to(folders["other"])
    first, copy, other = (open_source(str(folder / name)) for folder in folders.values())
    assert first.content(0) is not None
    assert first.content(0) == copy.content(0)
    assert first.content(0) != other.content(0)
    if write in (write_folder, write_pictures, write_tar, write_bair):  # each video has bytes of its own
        assert first.content(1) == other.content(1)


def test_videos_in_no_file_have_no_content() -> None:
    assert open_source("tabletop:?videos=3&frames=5&size=16").content(0) is None


@pytest.mark.parametrize("size", [1, 100, BLOCK_BYTES, 3 * BLOCK_BYTES + 5, 5 * BLOCK_SPACING])
def test_changes_at_both_ends_and_of_the_size_are_noticed(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    data = np.random.default_rng(0).bytes(size + 2)
    changed = [data[:-1], data, data[1:-1], b"?" + data[2:-1], data[1:-2] + b"?"]
    found = set()
    for number, content in enumerate([data[1:-1], *changed]):
        path.write_bytes(content)
        os.utime(path, (number, number))
        found.add(content_of([FilePart(path)]))
    assert len(found) == len(set(changed))
    path.write_bytes(data)
    assert content_of([FilePart(path, 1, size)]) in found


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.mp4: No such file"):
        content_of([FilePart(tmp_path / "gone.mp4")])


def test_data_replaced_between_two_parts_of_a_cache_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    section = {**TOKENIZER, "quantizer": {"type": "fsq", "levels": [7, 5, 5, 5]}}
    tokenizer, data = str(tmp_path / "tokenizer"), tmp_path / "x.npy"
    spread_codes(build_tokenizer(section, FRAMES, Framing(SIDE, SIDE))).save_pretrained(tokenizer)
    intended = make_frames(0, VIDEOS, FRAMES, SIDE, SIDE)

    def tokenize(name: str, part: int, parts: int = 2) -> dict[str, object]:
        out = tmp_path / name
        request = TokenizeRequest(tokenizer=tokenizer, data=str(data), out=out, shard_index=part, num_shards=parts)
        return tokenize_dataset.run(request)

    np.save(data, intended)
    tokenize("mixed", 0)
    np.save(data, make_frames(1, VIDEOS, FRAMES, SIDE, SIDE))
    with pytest.raises(DataError, match=r"x/32 is another file than the one that the plan was made from"):
        tokenize("mixed", 1)
    assert len(list((tmp_path / "mixed/commits").iterdir())) == 1
    np.save(data, intended)
    cache_id = tokenize("mixed", 1)["cache_id"]
    assert cache_id == tokenize("at-once", 0, 1)["cache_id"]
    plan = TokenCache.open(tmp_path / "mixed").plan
    assert {video["content"]["bytes"] for video in plan["videos"]} == {data.stat().st_size}
