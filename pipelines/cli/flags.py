"""Flags that several commands have, and the forms of flags. This module knows no torch and runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def options(*several: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order in which `--help` shows them."""

    def decorate(function: F) -> F:
        for option in reversed(several):
            function = option(function)
        return function

    return decorate


def path_option(flag: str, help: str, required: bool = True) -> Callable[[F], F]:
    return click.option(flag, type=click.Path(path_type=Path), required=required, help=help)


def count_option(flag: str, default: int | None, help: str, least: int = 1) -> Callable[[F], F]:
    return click.option(flag, type=click.IntRange(least), default=default, show_default=default is not None, help=help)


def named_option(flag: str, metavar: str, read: Callable[[str], object], help: str) -> Callable[[F], F]:
    """A flag that may be given several times, each with a name and what is said of it."""
    return click.option(
        flag,
        multiple=True,
        metavar=metavar,
        callback=lambda _, __, values: [read(value) for value in values],
        help=f"{help}; may be given several times.",
    )


def _stream_count(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not name or not count.isdecimal():
        raise click.BadParameter(f"{text!r}: write it as STREAM=K, as in state=10")
    return name, int(count)


def _track(text: str) -> tuple[str, str]:
    name, _, said = text.partition("=")
    if not name or not said:
        raise click.BadParameter(f"{text!r}: write it as NAME=FILE, as in quarter=quarters.csv")
    return name, said


def names_of_text(_: click.Context, __: click.Parameter, text: str | None) -> list[str] | None:
    """A list by commas; `none` for an empty one."""
    return None if text is None else [] if text == "none" else [name.strip() for name in text.split(",")]


OUT = path_option("--out", "Folder to write; it must be new or empty.")
DATA = click.option(
    "--data", required=True, help="Videos: a folder, one file, tar shards, arrays, or tabletop: for the embedded data."
)
CACHE = path_option("--cache", "Sealed token cache.")
TOKENIZER = click.option(
    "--tokenizer", required=True, help="Folder of a saved tokenizer, or its repository on the Hub."
)
PRIOR = click.option(
    "--prior",
    required=True,
    multiple=True,
    help="Folder of a saved prior, or its repository on the Hub; given again for each level of codes, and for tracks.",
)
REVISION = click.option("--revision", help="Branch, tag or commit of the repository.")
DEVICE = click.option("--device", help="cpu, cuda, cuda:1, ...; the first GPU if there is one.")
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Estimate time, memory and disk, and write nothing.")
SPLIT = click.option("--split", type=click.Choice(["train", "validation", "test"]), default="validation")

CONTEXT = count_option(
    "--context", None, "Frames before it that help to decode a frame; 0: none; left out: the tokenizer's.", 0
)

TRAINING = options(
    click.option("--preset", help="Name of a shipped preset; see `tokenreel presets list`."),
    path_option("--config", "YAML file laid over the preset.", required=False),
    click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="One field, as in prior.depth=4."),
    path_option("--out", "Run folder: configuration, metrics, checkpoints, samples, the trained model."),
    count_option("--steps", None, "Optimizer steps, instead of the preset's."),
    DEVICE,
    click.option("--resume", default="auto", show_default=True, help="auto, never, or a checkpoint to go on from."),
    click.option("--seed", type=click.IntRange(0), help="Instead of the preset's."),
    click.option("--log-with", multiple=True, help="tensorboard, wandb, ...; metrics.jsonl is always written."),
    DRY_RUN,
)
SAMPLING = options(
    click.option("--temperature", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True),
    count_option("--top-k", 0, "Draw among the K likeliest codes; 0: all.", least=0),
    click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True),
    click.option("--greedy", is_flag=True, help="Always the likeliest code."),
    named_option("--top-k-of", "STREAM=K", _stream_count, "Another K for one stream, as in state=10"),
    click.option(
        "--guidance",
        type=click.FloatRange(0),
        default=1.0,
        show_default=True,
        help="How far given controls are followed: 1 as trained, 0 not at all, 3 beyond; twice the time unless 1.",
    ),
    count_option("--draft", 0, "Codes of the frame before that are tried at once; changes the speed only.", least=0),
    count_option("--slide", 0, "Frames by which the window moves past the trained length; 0: half a clip.", least=0),
)
CONTROLS = options(
    click.option("--controls", help="Folder or repository that fit-controls wrote; needed with the four below."),
    click.option("--class", "class_name", metavar="NAME", help="Class of the sample, as its folder was called."),
    path_option("--states", "CSV with a line for each frame of the sample: frame, and the columns as fitted.", False),
    path_option("--sound", "Audio file, or video with sound, that begins with the sample's first frame.", False),
    named_option("--track", "NAME=FILE", _track, "A control by its own name: a CSV, an audio file, or a class"),
    path_option("--end", "Picture that the sample is to end in, or a video that has it at that place.", False),
)
