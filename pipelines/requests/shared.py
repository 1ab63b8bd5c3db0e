"""Flags that several commands have: (flag, help)."""

from __future__ import annotations

from typing import Literal

Split = Literal["train", "validation", "test"]
FileFormat = Literal["mp4", "gif", "png", "npy"]

DATA = ("--data", "Videos: a folder, one file, tar shards, arrays, or tabletop: for synthetic Tabletop videos.")
TOKENIZER = ("--tokenizer", "Folder of a saved tokenizer, or its repository on the Hub.")
PRIOR = (
    "--prior",
    "Folder of a saved prior, or its repository on the Hub. Repeat for each prior of a cascade: one per level, and "
    "control priors.",
)
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
FRAMES = ("--frames", "Frames of each sample, the given ones included. Default: the length of the training clips.")
DRY_RUN = ("--dry-run", "Estimate time, memory and disk space without writing anything.")
DECODE_WORKERS = ("--workers", "Processes that decode videos (0: decode in the main process).")
