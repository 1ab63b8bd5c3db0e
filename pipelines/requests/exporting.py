"""Requests that write tokens in the formats of others: export."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tokenreel.pipelines.requests.fields import Request, option, request
from tokenreel.pipelines.requests.shared import OUT, SPLIT, Split

ExportFormat = Literal["webdataset"]


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
