"""Requests that write, rewrite or export token caches: tokenize-dataset, repair, export."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tokenreel.errors import ConfigError
from tokenreel.pipelines.requests.fields import Request, argument, option, request, require_defaults
from tokenreel.pipelines.requests.shared import DATA, DEVICE, DRY_RUN, LIMIT, OUT, SPLIT, STRICT, Split

ExportFormat = Literal["webdataset"]
Precision = Literal["fp32", "bf16"]
WORKERS = ("--workers", "Processes that encode, each with decoding processes of its own; affects speed only.")
OF_VIDEOS = (
    "controls",
    "num_shards",
    "decoders",
    "exclude",
    "limit",
    "clip_stride",
    "whole_videos",
    "strict",
    "dry_run",
)  # not of imported tokens


@request
class TokenizeRequest(Request):
    """Write the tokens of a data set into a cache.

    An interrupted run is continued by the same command.
    """

    tokenizer: str | None = option(
        "--tokenizer",
        "Folder of a saved tokenizer, or its repository on the Hub. Omit it if --data is an .npy file of tokens.",
        default=None,
    )
    data: str = option(*DATA)
    controls: str | None = option(
        "--controls",
        "Folder or Hub repository written by fit-controls, whose control streams are added. Default: no controls.",
        default=None,
    )
    controls_revision: str | None = option(
        "--controls-revision", "Branch, tag or commit of the repository of --controls.", default=None
    )
    out: Path = option("--out", "Cache to write, or to continue.")
    workers: int = option(*WORKERS, default=1, minimum=1)
    decoders: int = option(
        "--decoders",
        "Decoding processes for each of the --workers: more where one GPU encodes faster than one process decodes; "
        "affects speed only.",
        default=1,
        minimum=1,
    )
    shard_index: int = option(
        "--shard-index", "Which of the --num-shards parts this call writes.", default=0, minimum=0
    )
    num_shards: int = option(
        "--num-shards", "Number of parts that the work is divided into, for several machines.", default=1, minimum=1
    )
    device: str | None = option(*DEVICE, default=None)
    precision: Precision = option("--precision", "Precision of the encoder.", default="fp32")
    revision: str | None = option(
        "--revision", "Branch, tag or commit of the tokenizer's repository. Default: its main branch.", default=None
    )
    exclude: tuple[str, ...] = option("--exclude", "Id of a video to exclude. Repeatable.", default=())
    limit: int | None = option(*LIMIT, default=None, minimum=1)
    clip_stride: int | None = option(
        "--clip-stride",
        "Frames from the start of one clip to the start of the next. Default: the clip length, so clips do not "
        "overlap.",
        default=None,
        minimum=1,
    )
    whole_videos: bool = option(
        "--whole-videos", "Store whole videos instead of clips (framewise tokenizers only).", default=False
    )
    max_bad_fraction: float = option(
        "--max-bad-fraction",
        "Largest fraction of videos or clips that may fail to decode.",
        default=0.05,
        minimum=0,
        maximum=1,
    )
    allow_collapsed: bool = option(
        "--allow-collapsed", "Seal the cache even if a level's codebook has collapsed.", default=False
    )
    strict: bool = option(*STRICT, default=False)
    dry_run: bool = option(*DRY_RUN, default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard_index >= self.num_shards:
            raise ConfigError(
                f"--shard-index (={self.shard_index}) must be below --num-shards (={self.num_shards}); it counts from 0"
            )
        if self.tokenizer is None:
            require_defaults(self, OF_VIDEOS, "is for videos, which need a --tokenizer")


@request
class RepairRequest(Request):
    """Tokenize the damaged shards of a cache again."""

    path: Path = argument("PATH")
    tokenizer: str | None = option(
        "--tokenizer", "Where the tokenizer is now. Default: where it was when the cache was written.", default=None
    )
    controls: str | None = option(
        "--controls", "Where the fitted controls are now. Default: where they were.", default=None
    )
    data: str | None = option("--data", "Where the videos are now. Default: where they were.", default=None)
    device: str | None = option(*DEVICE, default=None)
    workers: int = option(*WORKERS, default=1, minimum=1)


@request
class ExportRequest(Request):
    """Export a token cache as WebDataset shards.

    There is one sample per valid row.
    """

    cache: Path = option("--cache", "Sealed token cache or token file.")
    out: Path = option(*OUT)
    format: ExportFormat = option("--format", "Format of the shards.", default="webdataset")
    split: Split | None = option(SPLIT[0], "Split to export. Default: all rows.", default=None)
    shard_rows: int = option("--shard-rows", "Maximum number of samples per shard.", default=10_000, minimum=1)
