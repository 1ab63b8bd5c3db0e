"""Flags that several commands have: (flag, help)."""

from __future__ import annotations

from typing import Literal

Split = Literal["train", "validation", "test"]
FileFormat = Literal["mp4", "gif", "png", "npy"]

DATA = ("--data", "Videos: a folder, one file, tar shards, arrays, or tabletop: for synthetic Tabletop videos.")
TOKENIZER = ("--tokenizer", "Folder of a saved tokenizer, or its repository on the Hub.")
CACHE = ("--cache", "Sealed token cache.")
OUT = ("--out", "Folder to write; must be new or empty.")
DEVICE = ("--device", "cpu, cuda, cuda:1, ... Default: the first GPU, or the CPU if there is none.")
REVISION = ("--revision", "Branch, tag or commit of the repository on the Hub. Default: its main branch.")
SEED = ("--seed", "Seed of the random numbers.")
SPLIT = ("--split", "Split whose clips are used.")
CONTEXT = (
    "--context",
    "Number of previous frames used as decoder context (0: decode each frame independently). Default: the tokenizer's "
    "setting.",
)
FORMAT = ("--format", "File format of the videos.")
STRICT = ("--strict", "Fail if anything at --data is skipped: unused files, unlisted or unreadable or short videos.")
LIMIT = (
    "--limit",
    "Use only N of the videos, spread evenly over their names, to try a large data set. Default: all.",
)
DRY_RUN = ("--dry-run", "Estimate time, memory and disk space without writing anything.")
