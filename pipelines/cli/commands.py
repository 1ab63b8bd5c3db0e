"""Every command and its flags. What a command does is `run` in the module of its name, imported only when it is run.

Each `run` takes the flags as arguments and returns a summary of plain data. This module knows no torch.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from tokenreel import __version__
from tokenreel.pipelines.cli.flags import (
    CACHE,
    CONTEXT,
    CONTROLS,
    DATA,
    DEVICE,
    DRY_RUN,
    OUT,
    PRIOR,
    REVISION,
    SAMPLING,
    SEED,
    SPLIT,
    TOKENIZER,
    TRAINING,
    count_option,
    names_of_text,
    path_option,
)
from tokenreel.pipelines.cli.summary import summary_lines
from tokenreel.pipelines.common.progress import silence

QUARANTINED, INTERRUPTED = 3, 130  # exit codes: done, but inputs had to be put in quarantine; ended by Ctrl-C
FILE_FORMATS = ("mp4", "gif", "png", "npy")


class Command(click.Command):
    """A command with `--json`, `--quiet` and `--debug`, which prints the summary that its function returns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["--json", "as_json"], is_flag=True, help="Print the result as JSON."),
            click.Option(["--quiet"], is_flag=True, help="Show no progress."),
            click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
        ]

    def invoke(self, ctx: click.Context) -> int:
        """Prints the summary. Returns the exit code: 3 where the summary counts inputs that were put in quarantine."""
        as_json, quiet, _ = (ctx.params.pop(name) for name in ("as_json", "quiet", "debug"))
        if quiet:
            silence()
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when huggingface_hub is imported
        summary = super().invoke(ctx)
        if os.environ.get("RANK", "0") == "0":  # of several launched processes the first one speaks
            click.echo(json.dumps(summary, indent=2) if as_json else "\n".join(summary_lines(summary)))
        return QUARANTINED if summary.get("quarantined") else 0


class Commands(click.Group):
    """Lists its commands in the order in which they are declared, which is the way through the pipeline."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


Commands.group_class = Commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="tokenreel")
def program() -> None:
    """Video -> discrete tokens -> a prior over them -> video.

    The way through: tabletop (or videos of your own), train-tokenizer, tokenize-dataset, train-prior, sample, decode.
    `tokenreel demo --out demo` walks it in a few minutes.
    """


def _run(module: str, flags: dict[str, Any], function: str = "run") -> dict[str, Any]:
    with _interrupt_ends_at_once():
        command = importlib.import_module(f"tokenreel.pipelines.commands.{module}")
    summary: dict[str, Any] = getattr(command, function)(**flags)
    return summary


@contextmanager
def _interrupt_ends_at_once() -> Iterator[None]:
    """For imports, the seconds before anything has begun: libraries that are half imported turn Ctrl-C into errors."""

    def leave(*_: Any) -> NoReturn:
        os.write(2, b"tokenreel: interrupted\n")
        os._exit(INTERRUPTED)

    previous = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@program.command()
@OUT
@SEED
@click.option("--data", help="Videos of your own instead of the embedded ones.")
@click.option("--preset", default="gpt-tabletop-tiny", show_default=True, help="What to train.")
def demo(**flags: Any) -> dict[str, Any]:
    """Walk the whole way on embedded data, up to report.html."""
    return _run("demo", flags)


@program.command()
@click.argument("directory", type=click.Path(path_type=Path))
@count_option("--videos", 64, "How many.")
@count_option("--frames", 32, "Frames of each video.")
@count_option("--size", 64, "Height and width in pixels.")
@SEED
def tabletop(**flags: Any) -> dict[str, Any]:
    """Write the embedded data set as video files."""
    return _run("tabletop", flags)


@program.command("train-tokenizer")
@DATA
@TRAINING
@count_option("--workers", 1, "Processes that decode videos; 0: none but this one.", least=0)
def train_tokenizer(**flags: Any) -> dict[str, Any]:
    """Train a tokenizer on videos (stage one)."""
    return _run("train_tokenizer", flags)


@program.command("fit-controls")
@click.option("--preset", help="Name of a shipped preset with the sections data and controls.")
@path_option("--config", "YAML file laid over the preset.", required=False)
@click.option(
    "--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="One field: controls.state.codebook_size=64."
)
@DATA
@OUT
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="train", show_default=True)
@count_option("--workers", 1, "Processes that read videos; 0: none but this one.", least=0)
def fit_controls(**flags: Any) -> dict[str, Any]:
    """Fit the coders of what steers videos: class, state, sound, integers."""
    return _run("fit_controls", flags)


@program.command("tokenize-dataset")
@click.option("--tokenizer", help="As for decode; left out where --data is an npy file of codes made elsewhere.")
@DATA
@click.option("--controls", help="Folder or repository that fit-controls wrote; left out: no tracks beside the codes.")
@click.option("--controls-revision", help="Branch, tag or commit of the repository of --controls.")
@path_option("--out", "Cache to write, or to finish.")
@count_option("--workers", 1, "Processes, each with a decoder of its own. The cache does not depend on it.")
@count_option("--shard-index", 0, "Which part of the shards is for this call.", least=0)
@count_option("--num-shards", 1, "Into how many parts the shards are divided, for several machines.")
@DEVICE
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--revision", help="Branch, tag or commit of the tokenizer's repository.")
@click.option("--exclude", multiple=True, help="Id of a video to leave out; may be given several times.")
@count_option("--hop", None, "Frames from one clip to the next; left out: clips do not overlap.")
@click.option("--whole-videos", is_flag=True, help="Keep videos whole (frame tokenizers only).")
@click.option("--max-bad-fraction", type=click.FloatRange(0, 1), default=0.05, show_default=True)
@click.option("--allow-collapsed", is_flag=True, help="Seal even if a level's codes hardly differ.")
@DRY_RUN
def tokenize_dataset(**flags: Any) -> dict[str, Any]:
    """Write the tokens of a data set into a sealed cache."""
    return _run("tokenize_dataset", flags)


@program.command("train-prior")
@CACHE
@click.option("--level", help="Which level's prior, where the preset has one for each: top or bottom.")
@TRAINING
def train_prior(**flags: Any) -> dict[str, Any]:
    """Train a prior on a token cache (stage two).

    For several processes: accelerate launch --multi_gpu --num_processes N -m tokenreel train-prior ...
    """
    return _run("train_prior", flags)


@program.command()
@PRIOR
@CACHE
@SPLIT
@count_option("--prime", 1, "Frames that are given.", least=0)
@count_option("--num", 16, "Samples.")
@count_option("--clips", None, "Clips of the cache that are gone on with, in turn; left out: one for each sample.")
@click.option(
    "--given-tracks",
    callback=names_of_text,
    metavar="NAME,NAME",
    help="Tracks taken from those clips, as in state,end, or none; left out: all but what a prior of tracks draws.",
)
@count_option("--frames", None, "Frames of each sample, the given ones included; left out: the trained length.")
@SEED
@SAMPLING
@count_option("--batch", 16, "Samples drawn at once; changes the speed only.")
@path_option("--out", "Token file to write.")
@DEVICE
@REVISION
def sample(**flags: Any) -> dict[str, Any]:
    """Draw token samples from a prior."""
    return _run("sample", flags)


@program.command()
@path_option("--tokens", "Token file or cache.")
@TOKENIZER
@OUT
@click.option("--format", type=click.Choice(FILE_FORMATS), default="mp4", show_default=True)
@count_option("--batch", 16, "Clips decoded at once.")
@CONTEXT
@click.option(
    "--context-video", metavar="PATH", help="True first frames: a video or picture, or the data that the clips are of."
)
@count_option("--prime", None, "How many of them are known; left out: as many as samples were given, else 1.")
@click.option("--end", metavar="PATH", help="A true last frame: a picture, a video, or the data that the clips are of.")
@DEVICE
@REVISION
def decode(**flags: Any) -> dict[str, Any]:
    """Turn token files into videos, one file a clip."""
    return _run("decode", flags)


@program.command()
@PRIOR
@TOKENIZER
@path_option("--video", "The video whose first frames are given; may be left out with --prime 0.", required=False)
@count_option("--prime", 1, "Frames that are given.", least=0)
@CONTROLS
@count_option("--num", 4, "Samples.")
@count_option("--frames", None, "Frames of each sample, the given ones included; left out: the trained length.")
@SEED
@SAMPLING
@CONTEXT
@OUT
@click.option("--format", type=click.Choice(FILE_FORMATS), default="mp4", show_default=True)
@DEVICE
def generate(**flags: Any) -> dict[str, Any]:
    """Go on with the first frames of a video, or make one from nothing, steered if the prior has controls."""
    return _run("generate", flags)


@program.command()
@TOKENIZER
@DATA
@OUT
@count_option("--num", 16, "Clips.")
@SPLIT
@CONTEXT
@count_option("--prime", 0, "First frames that are known: true context, and not scored.", least=0)
@DEVICE
@REVISION
def reconstruct(**flags: Any) -> dict[str, Any]:
    """Put videos through a tokenizer and back, with scores."""
    return _run("reconstruct", flags)


@program.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("repo")
@click.option("--revision", help="Branch to push to; it is made if need be.")
def push(**flags: Any) -> dict[str, Any]:
    """Publish the model or cache in PATH on the Hub."""
    return _run("push", flags)


@program.command()
@click.argument("repo")
@click.argument("path", type=click.Path(path_type=Path))
@REVISION
def pull(**flags: Any) -> dict[str, Any]:
    """Fetch a model or cache from the Hub into PATH."""
    return _run("pull", flags)


@program.command()
@click.argument("path", type=click.Path(path_type=Path))
@path_option("--pictures", "New folder for pictures of a cache's or token file's codes.", required=False)
@count_option("--clips", 8, "Clips in the pictures, spread over the cache.")
def inspect(**flags: Any) -> dict[str, Any]:
    """Say what a cache, token file, run or saved model holds, and picture its codes."""
    return _run("inspect", flags)


@program.command()
@click.argument("path", type=click.Path(path_type=Path))
def verify(**flags: Any) -> dict[str, Any]:
    """Check that what `inspect` describes is whole."""
    return _run("verify", flags)


@program.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--tokenizer", help="Where the tokenizer is now; left out: where it was.")
@click.option("--controls", help="Where the fitted controls are now; left out: where they were.")
@click.option("--data", help="Where the videos are now; left out: where they were.")
@DEVICE
@count_option("--workers", 1, "Processes, each with a decoder of its own.")
def repair(**flags: Any) -> dict[str, Any]:
    """Tokenize the damaged shards of a cache again."""
    return _run("repair", flags)


@program.group()
def presets() -> None:
    """The shipped experiments."""


@presets.command("list")
def list_presets() -> dict[str, Any]:
    """Name the presets."""
    return _run("presets", {}, "run_list")


@presets.command("show")
@click.argument("name")
def show_preset(**flags: Any) -> dict[str, Any]:
    """Show a preset with all defaults, and its sizes."""
    return _run("presets", flags, "run_show")


@program.command()
def doctor() -> dict[str, Any]:
    """Say what this machine has, and what of it is unsafe."""
    return _run("doctor", {})


def all_commands(group: click.Group = program) -> Iterable[tuple[str, click.Command]]:
    """Every command with its full name, `presets show` included."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", sub) for inner, sub in all_commands(command))
        else:
            yield name, command
