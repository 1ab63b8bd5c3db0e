"""Requests that turn tokens into videos: decode, reconstruct."""

from __future__ import annotations

from pathlib import Path

from tokenreel.errors import ConfigError
from tokenreel.pipelines.requests.fields import Request, option, request
from tokenreel.pipelines.requests.shared import (
    CONTEXT,
    DATA,
    DEVICE,
    FORMAT,
    LIMIT,
    OUT,
    REVISION,
    TOKENIZER,
    FileFormat,
    Split,
)


@request
class DecodeRequest(Request):
    """Decode a token file or cache into videos.

    There is one file per clip.
    """

    tokens: Path = option("--tokens", "Token file or cache.")
    tokenizer: str = option(*TOKENIZER)
    out: Path = option(*OUT)
    format: FileFormat = option(*FORMAT, default="mp4")
    batch: int = option("--batch", "Clips decoded at once; affects speed and memory only.", default=16, minimum=1)
    context: int | None = option(*CONTEXT, default=None, minimum=0)
    context_video: str | None = option(
        "--context-video",
        "True first frames to use as context: a video or picture for all clips, or the data set of the clips.",
        default=None,
        metavar="PATH",
    )
    given_frames: int | None = option(
        "--given-frames",
        "Number of frames taken from --context-video. Default: as many as the samples were given, or 1.",
        default=None,
        minimum=1,
    )
    end: str | None = option(
        "--end",
        "True last frame to use as context: a picture, a video, or the data set of the clips.",
        default=None,
        metavar="PATH",
    )
    device: str | None = option(*DEVICE, default=None)
    revision: str | None = option(*REVISION, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.given_frames is not None and self.context_video is None:
            raise ConfigError(
                f"--given-frames (={self.given_frames}) counts the frames of --context-video: give that as well"
            )


@request
class ReconstructRequest(Request):
    """Encode and decode videos, and score them."""

    tokenizer: str = option(*TOKENIZER)
    data: str = option(*DATA)
    limit: int | None = option(*LIMIT, default=None, minimum=1)
    out: Path = option(*OUT)
    num: int = option("--num", "Number of clips.", default=16, minimum=1)
    split: Split | None = option(
        "--split",
        "Split whose clips are used. Default: validation, or all clips where no video is held out.",
        default=None,
    )
    context: int | None = option(*CONTEXT, default=None, minimum=0)
    given_frames: int = option(
        "--given-frames",
        "Number of first frames that are true frames: used as context, and not scored.",
        default=0,
        minimum=0,
    )
    device: str | None = option(*DEVICE, default=None)
    revision: str | None = option(*REVISION, default=None)
