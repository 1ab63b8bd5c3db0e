"""Every command and its flags. What a command does is `run` in the module of its name, imported only when it is run.

Each `run` takes the flags as arguments and returns a summary of plain data. This module knows no torch.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from tokenreel import __version__
from tokenreel.pipelines.progress import silence
from tokenreel.pipelines.summary import summary_lines

QUARANTINED, INTERRUPTED = 3, 130  # exit codes: done, but inputs had to be put in quarantine; ended by Ctrl-C
FILE_FORMATS = ("mp4", "gif", "png", "npy")

F = TypeVar("F", bound=Callable[..., Any])


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


def _run(module: str, flags: dict[str, Any]) -> dict[str, Any]:
    with _interrupt_ends_at_once():
        command = importlib.import_module(f"tokenreel.pipelines.{module}")
    summary: dict[str, Any] = command.run(**flags)
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


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order in which `--help` shows them."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _path(flag: str, help: str, required: bool = True) -> Callable[[F], F]:
    return click.option(flag, type=click.Path(path_type=Path), required=required, help=help)


def _count(flag: str, default: int | None, help: str, least: int = 1) -> Callable[[F], F]:
    return click.option(flag, type=click.IntRange(least), default=default, show_default=default is not None, help=help)


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


def _names(_: click.Context, __: click.Parameter, text: str | None) -> list[str] | None:
    """A list by commas; `none` for an empty one."""
    return None if text is None else [] if text == "none" else [name.strip() for name in text.split(",")]


OUT = _path("--out", "Folder to write; it must be new or empty.")
DATA = click.option(
    "--data", required=True, help="Videos: a folder, one file, tar shards, arrays, or tabletop: for the embedded data."
)
CACHE = _path("--cache", "Sealed token cache.")
TOKENIZER = click.option(
    "--tokenizer", required=True, help="Folder of a saved tokenizer, or its repository on the Hub."
)
PRIOR = click.option(
    "--prior",
    required=True,
    multiple=True,
    help="Folder of a saved prior, or its repository on the Hub; given again for each level of codes.",
)
REVISION = click.option("--revision", help="Branch, tag or commit of the repository.")
DEVICE = click.option("--device", help="cpu, cuda, cuda:1, ...; the first GPU if there is one.")
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Estimate time, memory and disk, and write nothing.")
SPLIT = click.option("--split", type=click.Choice(["train", "validation", "test"]), default="validation")

CONTEXT = _count(
    "--context", None, "Frames before it that help to decode a frame; 0: none; left out: the tokenizer's.", 0
)

TRAINING = _options(
    click.option("--preset", help="Name of a shipped preset; see `tokenreel presets list`."),
    _path("--config", "YAML file laid over the preset.", required=False),
    click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="One field, as in prior.depth=4."),
    _path("--out", "Run folder: configuration, metrics, checkpoints, samples, the trained model."),
    _count("--steps", None, "Optimizer steps, instead of the preset's."),
    DEVICE,
    click.option("--resume", default="auto", show_default=True, help="auto, never, or a checkpoint to go on from."),
    click.option("--seed", type=click.IntRange(0), help="Instead of the preset's."),
    click.option("--log-with", multiple=True, help="tensorboard, wandb, ...; metrics.jsonl is always written."),
    DRY_RUN,
)
SAMPLING = _options(
    click.option("--temperature", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True),
    _count("--top-k", 0, "Draw among the K likeliest codes; 0: all.", least=0),
    click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True),
    click.option("--greedy", is_flag=True, help="Always the likeliest code."),
    click.option(
        "--top-k-of",
        multiple=True,
        metavar="STREAM=K",
        callback=lambda _, __, values: [_stream_count(value) for value in values],
        help="Another K for one stream, as in state=10; may be given several times.",
    ),
    click.option(
        "--guidance",
        type=click.FloatRange(0),
        default=1.0,
        show_default=True,
        help="How far given controls are followed: 1 as trained, 0 not at all, 3 beyond; twice the time unless 1.",
    ),
    _count("--draft", 0, "Codes of the frame before that are tried at once; changes the speed only.", least=0),
    _count("--slide", 0, "Frames by which the window moves past the trained length; 0: half a clip.", least=0),
)
CONTROLS = _options(
    click.option("--controls", help="Folder or repository that fit-controls wrote; needed with the four below."),
    click.option("--class", "class_name", metavar="NAME", help="Class of the sample, as its folder was called."),
    _path("--states", "CSV with a line for each frame of the sample: frame, and the columns as fitted.", False),
    _path("--sound", "Audio file, or video with sound, that begins with the sample's first frame.", False),
    click.option(
        "--track",
        multiple=True,
        metavar="NAME=FILE",
        callback=lambda _, __, values: [_track(value) for value in values],
        help="A control by its own name: a CSV, an audio file, or a class; may be given several times.",
    ),
    _path("--end", "Picture that the sample is to end in, or a video that has it at that place.", False),
)


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
@_count("--videos", 64, "How many.")
@_count("--frames", 32, "Frames of each video.")
@_count("--size", 64, "Height and width in pixels.")
@SEED
def tabletop(**flags: Any) -> dict[str, Any]:
    """Write the embedded data set as video files."""
    return _run("tabletop", flags)


@program.command("train-tokenizer")
@DATA
@TRAINING
@_count("--workers", 1, "Processes that decode videos; 0: none but this one.", least=0)
def train_tokenizer(**flags: Any) -> dict[str, Any]:
    """Train a tokenizer on videos (stage one)."""
    return _run("train_tokenizer", flags)


@program.command("fit-controls")
@click.option("--preset", help="Name of a shipped preset with the sections data and controls.")
@_path("--config", "YAML file laid over the preset.", required=False)
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="One field: controls.state.codes=64.")
@DATA
@OUT
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="train", show_default=True)
@_count("--workers", 1, "Processes that read videos; 0: none but this one.", least=0)
def fit_controls(**flags: Any) -> dict[str, Any]:
    """Fit the coders of what steers videos: class, state, sound, integers."""
    return _run("fit_controls", flags)


@program.command("tokenize-dataset")
@click.option("--tokenizer", help="As for decode; left out where --data is an npy file of codes made elsewhere.")
@DATA
@click.option("--controls", help="Folder or repository that fit-controls wrote; left out: no tracks beside the codes.")
@click.option("--controls-revision", help="Branch, tag or commit of the repository of --controls.")
@_path("--out", "Cache to write, or to finish.")
@_count("--workers", 1, "Processes, each with a decoder of its own. The cache does not depend on it.")
@_count("--shard-index", 0, "Which part of the shards is for this call.", least=0)
@_count("--num-shards", 1, "Into how many parts the shards are divided, for several machines.")
@DEVICE
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--revision", help="Branch, tag or commit of the tokenizer's repository.")
@click.option("--exclude", multiple=True, help="Id of a video to leave out; may be given several times.")
@_count("--hop", None, "Frames from one clip to the next; left out: clips do not overlap.")
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
@_count("--prime", 1, "Frames that are given.", least=0)
@_count("--num", 16, "Samples.")
@_count("--clips", None, "Clips of the cache that are gone on with, in turn; left out: one for each sample.")
@click.option(
    "--given-tracks",
    callback=_names,
    metavar="NAME,NAME",
    help="Tracks taken from those clips, as in state,end; none: no track; left out: all that the prior knows.",
)
@_count("--frames", None, "Frames of each sample, the given ones included; left out: the trained length.")
@SEED
@SAMPLING
@_count("--batch", 16, "Samples drawn at once; changes the speed only.")
@_path("--out", "Token file to write.")
@DEVICE
@REVISION
def sample(**flags: Any) -> dict[str, Any]:
    """Draw token samples from a prior."""
    return _run("sample", flags)


@program.command()
@_path("--tokens", "Token file or cache.")
@TOKENIZER
@OUT
@click.option("--format", type=click.Choice(FILE_FORMATS), default="mp4", show_default=True)
@_count("--batch", 16, "Clips decoded at once.")
@CONTEXT
@click.option(
    "--context-video", metavar="PATH", help="True first frames: a video or picture, or the data that the clips are of."
)
@_count("--prime", None, "How many of them are known; left out: as many as samples were given, else 1.")
@click.option("--end", metavar="PATH", help="A true last frame: a picture, a video, or the data that the clips are of.")
@DEVICE
@REVISION
def decode(**flags: Any) -> dict[str, Any]:
    """Turn token files into videos, one file a clip."""
    return _run("decode", flags)


@program.command()
@PRIOR
@TOKENIZER
@_path("--video", "The video whose first frames are given; may be left out with --prime 0.", required=False)
@_count("--prime", 1, "Frames that are given.", least=0)
@CONTROLS
@_count("--num", 4, "Samples.")
@_count("--frames", None, "Frames of each sample, the given ones included; left out: the trained length.")
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
@_count("--num", 16, "Clips.")
@SPLIT
@CONTEXT
@_count("--prime", 0, "First frames that are known: true context, and not scored.", least=0)
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
@_path("--pictures", "New folder for pictures of a cache's or token file's codes.", required=False)
@_count("--clips", 8, "Clips in the pictures, spread over the cache.")
def inspect(**flags: Any) -> dict[str, Any]:
    """Say what a cache, token file, run or saved model holds, and picture its codes."""
    return _run("inspect_path", flags)


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
@_count("--workers", 1, "Processes, each with a decoder of its own.")
def repair(**flags: Any) -> dict[str, Any]:
    """Tokenize the damaged shards of a cache again."""
    return _run("repair", flags)


@program.group()
def presets() -> None:
    """The shipped experiments."""


@presets.command("list")
def list_presets() -> dict[str, Any]:
    """Name the presets."""
    return _run("list_presets", {})


@presets.command("show")
@click.argument("name")
def show_preset(**flags: Any) -> dict[str, Any]:
    """Show a preset with all defaults, and its sizes."""
    return _run("show_preset", flags)


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
