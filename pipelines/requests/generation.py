"""Requests that sample from priors: sample, generate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tokenreel.errors import ConfigError
from tokenreel.pipelines.requests.fields import Request, option, request
from tokenreel.pipelines.requests.shared import (
    CACHE,
    CONTEXT,
    DEVICE,
    FORMAT,
    OUT,
    REVISION,
    SEED,
    SPLIT,
    TOKENIZER,
    FileFormat,
    Split,
)

PRIOR = (
    "--prior",
    "Folder of a saved prior, or its repository on the Hub. Repeat for each prior of a cascade: one per level, and "
    "control priors.",
)
FRAMES = ("--frames", "Frames of each sample, the given ones included. Default: the length of the training clips.")


@request
class SamplingOptions(Request):
    """How many samples, how long, and how tokens are sampled."""

    heading: ClassVar[str] = "Sampling"

    given_frames: int = option(
        "--given-frames", "Number of first frames that are given (0: none).", default=1, minimum=0
    )
    num: int = option("--num", "Number of samples.", default=16, minimum=1)
    frames: int | None = option(*FRAMES, default=None, minimum=1)
    seed: int = option(*SEED, default=0, minimum=0)
    temperature: float = option(
        "--temperature", "Divisor of the log-probabilities; below 1 favours likely tokens.", default=1.0, above=0
    )
    top_k: int = option("--top-k", "Sample among the K most likely tokens (0: all).", default=0, minimum=0)
    top_p: float = option(
        "--top-p",
        "Sample among the most likely tokens that together have this probability.",
        default=1.0,
        above=0,
        maximum=1,
    )
    greedy: bool = option("--greedy", "Take the most likely token instead of sampling.", default=False)
    top_k_of: Mapping[str, int] = option(
        "--top-k-of",
        "Another top-k for one stream, e.g. state=10. Repeatable.",
        default_factory=dict,
        metavar="STREAM=K",
    )
    guidance: float = option(
        "--guidance",
        "Classifier-free guidance scale (1: off, 0: ignore the controls). Other values than 1 double the cost.",
        default=1.0,
        minimum=0,
    )
    speculate: int | None = option(
        "--speculate",
        "Speculative decoding: tokens drafted per step from the previous frame (0: off). Exact; affects speed only. "
        "Default: as many as pay, by how many were accepted so far.",
        default=None,
        minimum=0,
    )
    window_stride: int = option(
        "--window-stride",
        "Stride in frames of the sliding window for videos longer than the training clips (0: half a clip).",
        default=0,
        minimum=0,
    )
    batch: int = option("--batch", "Samples per batch; affects speed and memory only.", default=16, minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames is not None and self.frames < self.given_frames:
            raise ConfigError(f"--frames (={self.frames}) must be at least --given-frames (={self.given_frames})")


@request
class ControlInputs(Request):
    """Controls as a person gives them: files and names."""

    heading: ClassVar[str] = "Controls"

    controls: str | None = option(
        "--controls",
        "Folder or Hub repository written by fit-controls; needed by --class, --states, --sound and --control.",
        default=None,
    )
    class_name: str | None = option(
        "--class", "Class of the video, as its folder was named in the training data.", default=None, metavar="NAME"
    )
    states: Path | None = option(
        "--states", "CSV with the column `frame` and those of the fitted state, one row per frame.", default=None
    )
    sound: Path | None = option(
        "--sound", "Audio file, or video with sound, that starts with the first frame.", default=None
    )
    control: Mapping[str, str] = option(
        "--control",
        "Any control by its name: a CSV, an audio file, or a class. Repeatable.",
        default_factory=dict,
        metavar="NAME=FILE",
    )
    end: Path | None = option(
        "--end", "Picture that the video ends with, or a video whose frame at that position is used.", default=None
    )


@request
class SampleRequest(SamplingOptions):
    """Sample tokens from a prior into a token file.

    The samples continue the first frames of clips of a cache.
    """

    prior: tuple[str, ...] = option(*PRIOR)
    cache: Path = option(*CACHE)
    split: Split | None = option(*SPLIT, default="validation")  # None, from Python: all clips
    num_clips: int | None = option(
        "--num-clips",
        "Number of distinct cache clips to continue (cycled). Default: one per sample.",
        default=None,
        minimum=1,
    )
    given_controls: tuple[str, ...] | None = option(
        "--given-controls",
        "Comma-separated controls to take from the clips ('none' for no controls). Default: all controls that are not "
        "sampled by a control prior.",
        default=None,
        separated=True,
    )
    out: Path = option("--out", "Token file to write; must be new.")
    device: str | None = option(*DEVICE, default=None)
    revision: str | None = option(*REVISION, default=None)


@request
class GenerateRequest(ControlInputs, SamplingOptions):
    """Continue a video, or generate one from scratch.

    A video is continued from its first frames. Priors with controls can be conditioned on them.
    """

    prior: tuple[str, ...] = option(*PRIOR)
    tokenizer: str = option(*TOKENIZER)
    video: Path | None = option(
        "--video", "Video whose first frames are given. Not used with --given-frames 0.", default=None
    )
    num: int = option("--num", "Number of samples.", default=4, minimum=1)
    context: int | None = option(*CONTEXT, default=None, minimum=0)
    out: Path = option(*OUT)
    format: FileFormat = option(*FORMAT, default="mp4")
    device: str | None = option(*DEVICE, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.video is None and self.given_frames:
            raise ConfigError(
                f"--given-frames (={self.given_frames}) needs --video, whose first frames are given: give one, or "
                "--given-frames 0"
            )
        if self.video is not None and not self.given_frames:
            raise ConfigError(
                f"--video {self.video} is not used with --given-frames 0: omit it, or give some of its frames"
            )
