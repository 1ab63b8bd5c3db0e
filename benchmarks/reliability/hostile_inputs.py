"""The attacks by every kind of input, and the intact inputs that they are made from."""

from __future__ import annotations

import dataclasses
import tarfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from tokenreel.benchmarks.reliability.attack import Attack, inspect, one_video, tokenize
from tokenreel.benchmarks.reliability.hostile_artifacts import caches, downloads, models, settings
from tokenreel.benchmarks.reliability.hostile_data import claims, names, tars, texts, videos
from tokenreel.benchmarks.reliability.project import Project


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
