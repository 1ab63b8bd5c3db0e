"""Intact files in the wrong place: exchanged within a folder, or with those of another folder of the same kind."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import torch

from tokenreel.benchmarks.reliability.flips import restore, write
from tokenreel.benchmarks.reliability.project import Project
from tokenreel.benchmarks.reliability.subjects import Judge, Subject, files_of, subjects, unseal, write_cache
from tokenreel.benchmarks.reliability.tally import Tally
from tokenreel.priors.base import Prior
from tokenreel.tokenizers.base import VideoTokenizer


def run(share: float, folder: Path) -> list[Tally]:
    """`share` is of the exchanges within a folder."""
    made, others = subjects(folder), other_folders(folder)
    return [exchange(subject, others.get(subject.name), share) for subject in made]


def other_folders(folder: Path) -> dict[str, Path]:
    """A second folder of a kind, with other content in files of the same names."""
    sealed, unsealed, project = folder / "other-sealed", folder / "other-unsealed", Project(folder / "project")
    write_cache(sealed, seed=1)
    unseal(shutil.copytree(sealed, unsealed))
    tokenizer, prior = VideoTokenizer.from_pretrained(project.tokenizer), Prior.from_pretrained(project.prior)
    for name, model in (("other-tokenizer", tokenizer), ("other-prior", prior)):
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
        model.save_pretrained(folder / name)
    models = {"tokenizer": folder / "other-tokenizer", "prior": folder / "other-prior"}
    return {"sealed cache": sealed, "unsealed cache, continued": unsealed, **models}


def exchange(subject: Subject, other: Path | None, share: float) -> Tally:
    tally, judge, files = Tally(f"swaps: {subject.name}"), Judge(subject), files_of(subject.folder)
    work = subject.folder.with_name("exchanged")
    shutil.copytree(subject.folder, work, dirs_exist_ok=True)

    def try_with(changed: dict[str, bytes], what: str) -> None:
        for name, content in changed.items():
            write(work / name, content)
        outcome, problem = judge(work)
        tally.add(outcome, f"{what}: {problem}")
        restore(work, files)

    pairs = [(a, b) for a, b in itertools.combinations(files, 2) if files[a] != files[b]]
    for a, b in pairs[:: max(1, round(1 / share))]:
        try_with({a: files[b], b: files[a]}, f"{a} and {b}")
    foreign = {name: content for name, content in files_of(other).items() if name in files} if other else {}
    for name, content in foreign.items():
        if content != files[name]:
            try_with({name: content}, f"{name} of another")
    for group in ("streams/", "commits/"):  # all of them together
        if taken := {name: content for name, content in foreign.items() if name.startswith(group)}:
            try_with(taken, f"{group} of another")
    shutil.rmtree(work)
    return tally
