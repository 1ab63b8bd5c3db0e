"""Requests that make new videos, sample and generate: tokens of priors, or the pixels of a generator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tokenreel.errors import ConfigError
from tokenreel.pipelines.requests.fields import Request, names_of, option, request, require_defaults
from tokenreel.pipelines.requests.shared import (
    CACHE,
    CONTEXT,
    DATA,
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
WITHOUT_TOKENS = "is for --prior, and a --generator makes videos without tokens"
FOR_GENERATOR = "is for --generator"
FRAMES = ("--frames", "Frames of each sample, the given ones included. Default: the length of the training clips.")


@request
class SampleOptions(Request):
    """How many samples, and their random numbers."""

    heading: ClassVar[str] = "Samples"

    num: int = option("--num", "Number of samples.", default=16, minimum=1)
    seed: int = option(*SEED, default=0, minimum=0)
    batch: int = option("--batch", "Samples per batch; affects speed and memory only.", default=16, minimum=1)


@request
class PriorOptions(Request):
    """Priors, and how their tokens are sampled."""

    heading: ClassVar[str] = "With --prior"

    prior: tuple[str, ...] = option(*PRIOR, default=())
    given_frames: int = option(
        "--given-frames", "Number of first frames that are given (0: none).", default=1, minimum=0
    )
    frames: int | None = option(*FRAMES, default=None, minimum=1)
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames is not None and self.frames < self.given_frames:
            raise ConfigError(f"--frames (={self.frames}) must be at least --given-frames (={self.given_frames})")


@request
class CachePriorOptions(PriorOptions):
    """Priors that continue the clips of a cache."""

    cache: Path | None = option(CACHE[0], "Sealed token cache whose clips are continued.", default=None)
    given_controls: tuple[str, ...] | None = option(
        "--given-controls",
        "Comma-separated controls to take from the clips ('none' for no controls). Default: all controls that are not "
        "sampled by a control prior.",
        default=None,
        separated=True,
    )


@request
class VideoPriorOptions(PriorOptions):
    """Priors that continue a video."""

    tokenizer: str | None = option(*TOKENIZER, default=None)
    context: int | None = option(*CONTEXT, default=None, minimum=0)


@request
class GeneratorOptions(Request):
    """A generator of pixels, in place of priors."""

    heading: ClassVar[str] = "With --generator, in place of --prior"

    generator: str | None = option(
        "--generator", "Folder of a saved generator, or its repository on the Hub.", default=None
    )
    truncation: float = option(
        "--truncation",
        "Standard deviation of the noise; below 1 samples are less diverse, and the generator's statistics are "
        "recomputed for it.",
        default=1.0,
        minimum=0,
        maximum=1,
    )


@request
class ClipGeneratorOptions(GeneratorOptions):
    """A generator whose conditions are those of clips."""

    data: str | None = option(
        DATA[0],
        "Videos whose clips give the first frames, the end frame and the class of the samples, as --data of "
        "train-generator. Needed by generators with given frames. Default: none.",
        default=None,
    )
    classes: tuple[str, ...] = option(
        "--class",
        "Class of the samples; repeat it for several in turn. Default: the class of the clip, or all classes in turn.",
        default=(),
        metavar="NAME",
    )
    format: FileFormat = option(*FORMAT, default="mp4")


@request
class VideoGeneratorOptions(GeneratorOptions):
    """A generator whose conditions a person gives."""

    between_classes: tuple[str, str] | None = option(
        "--between-classes",
        "Two classes: --steps videos with the same noise, from the one to the other. Default: none.",
        default=None,
    )
    between_seeds: tuple[int, int] | None = option(
        "--between-seeds",
        "Two seeds: --steps videos of one class, from the first sample of the one to that of the other. Default: none.",
        default=None,
        minimum=0,
    )
    steps: int = option(
        "--steps", "Number of videos of --between-classes and --between-seeds, with both ends.", default=8, minimum=2
    )


@request
class ControlInputs(Request):
    """Controls as a person gives them: files and names."""

    heading: ClassVar[str] = "Controls"

    controls: str | None = option(
        "--controls",
        "Folder or Hub repository written by fit-controls; with --prior needed by --class, --states, --sound and "
        "--control.",
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
class SampleRequest(SampleOptions, CachePriorOptions, ClipGeneratorOptions):
    """Sample from a prior into a token file, or from a generator into videos.

    Samples of a prior continue the first frames of clips of a cache. Those of a generator are made of noise and, if it
    has conditions, of those of clips.
    """

    out: Path = option("--out", "Token file, or folder of a generator's videos; must be new.")
    split: Split | None = option(*SPLIT, default="validation")  # None, from Python: all clips
    num_clips: int | None = option(
        "--num-clips",
        "Number of distinct clips that samples are made for (cycled). Default: one per sample.",
        default=None,
        minimum=1,
    )
    device: str | None = option(*DEVICE, default=None)
    revision: str | None = option(*REVISION, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_one(self.prior, self.generator)
        if self.generator is not None:
            require_defaults(self, names_of(CachePriorOptions), WITHOUT_TOKENS)
            if self.data is None:
                require_defaults(self, ("split", "num_clips"), "is for the clips of --data, which is not given")
            return
        require_defaults(self, names_of(ClipGeneratorOptions), FOR_GENERATOR)
        if self.cache is None:
            raise ConfigError("--cache must be given with --prior: the token cache whose clips are continued")


@request
class GenerateRequest(ControlInputs, SampleOptions, VideoPriorOptions, VideoGeneratorOptions):
    """Continue a video, or generate one from scratch.

    A video is continued from its first frames, by priors or by a generator. Both may be conditioned on controls.
    """

    video: Path | None = option(
        "--video", "Video whose first frames are given. Not used with --given-frames 0.", default=None
    )
    num: int = option("--num", "Number of samples.", default=4, minimum=1)
    out: Path = option(*OUT)
    format: FileFormat = option(*FORMAT, default="mp4")
    device: str | None = option(*DEVICE, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_one(self.prior, self.generator)
        if self.generator is not None:
            self._require_generator_options()
            return
        require_defaults(self, names_of(VideoGeneratorOptions), FOR_GENERATOR)
        if self.tokenizer is None:
            raise ConfigError("--tokenizer must be given with --prior: the one of whose tokens the prior is")
        if self.video is None and self.given_frames:
            raise ConfigError(
                f"--given-frames (={self.given_frames}) needs --video, whose first frames are given: give one, or "
                "--given-frames 0"
            )
        if self.video is not None and not self.given_frames:
            raise ConfigError(
                f"--video {self.video} is not used with --given-frames 0: omit it, or give some of its frames"
            )

    def _require_generator_options(self) -> None:
        require_defaults(self, names_of(VideoPriorOptions), WITHOUT_TOKENS)
        require_defaults(self, ("controls", "states", "sound", "control"), WITHOUT_TOKENS)
        if self.between_classes is None and self.between_seeds is None:
            require_defaults(self, ("steps",), "is for --between-classes and --between-seeds")
            return
        if self.between_classes is not None and self.between_seeds is not None:
            raise ConfigError("--between-classes and --between-seeds exclude each other: omit one of them")
        if self.between_classes is not None:
            require_defaults(self, ("num",), "is not used with --between-classes, which makes --steps videos")
            require_defaults(self, ("class_name",), "is not used with --between-classes")
        else:
            require_defaults(self, ("num",), "is not used with --between-seeds, which makes --steps videos")
            require_defaults(self, ("seed",), "is not used with --between-seeds")


def _require_one(prior: tuple[str, ...], generator: str | None) -> None:
    if prior and generator is not None:
        raise ConfigError("--prior and --generator exclude each other: omit one of them")
    if not prior and generator is None:
        raise ConfigError("--prior must be given at least once, or a --generator in its place")
