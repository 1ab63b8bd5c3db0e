"""Requests that train, fit or score: train-tokenizer, train-generator, fit-controls, train-prior, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tokenreel.errors import ConfigError
from tokenreel.pipelines.requests.fields import Request, option, request
from tokenreel.pipelines.requests.shared import CACHE, DATA, DEVICE, DRY_RUN, LIMIT, OUT, REVISION, SPLIT, STRICT, Split

WORKERS = ("--workers", "Processes that decode videos (0: decode in the main process).")


@request
class SettingsOptions(Request):
    """Where the configuration comes from; later sources win."""

    heading: ClassVar[str] = "Settings"

    preset: str | None = option(
        "--preset", "Name of a shipped preset; see `tokenreel presets list`.", default=None, complete="presets"
    )
    config: Path | None = option(
        "--config",
        "YAML file merged over the preset, as `tokenreel presets show NAME --yaml` prints one; or a run folder, or the "
        "config.json of a saved model, whose settings are taken.",
        default=None,
    )
    assignments: tuple[str, ...] = option(
        "--set", "Override one field, e.g. prior.depth=2. Repeatable.", default=(), metavar="FIELD=VALUE"
    )


@request
class TrainingOptions(SettingsOptions):
    heading: ClassVar[str] = "Training"

    out: Path = option("--out", "Run folder: configuration, metrics, checkpoints, samples and the trained model.")
    steps: int | None = option("--steps", "Optimizer steps. Default: the preset's.", default=None, minimum=1)
    init_from: str | None = option(
        "--init-from",
        "Folder of a saved model, or its repository on the Hub, whose weights a new run starts with. Default: random "
        "weights.",
        default=None,
    )
    revision: str | None = option(*REVISION, default=None)
    device: str | None = option(*DEVICE, default=None)
    resume: str = option(
        "--resume",
        "auto: continue the run in --out if there is one; never: require a new folder; or the path of a checkpoint.",
        default="auto",
    )
    seed: int | None = option("--seed", "Seed of the random numbers. Default: the preset's.", default=None, minimum=0)
    log_with: tuple[str, ...] = option(
        "--log-with", "Tracker besides metrics.jsonl: tensorboard, wandb, swanlab, ... Repeatable.", default=()
    )
    dry_run: bool = option(*DRY_RUN, default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.revision is not None and self.init_from is None:
            raise ConfigError(f"--revision (={self.revision}) is that of --init-from, which is not given: omit it")

    @property
    def overrides(self) -> dict[str, Any]:
        """The fields of the configuration that flags replace; None where a flag is not given."""
        return {
            "training.steps": self.steps,
            "training.seed": self.seed,
            "training.log_with": list(self.log_with) or None,
        }


@request
class VideoOptions(Request):
    """What is specific to training on videos; `--help` shows it as the request's own options."""

    data: str = option(*DATA)
    workers: int = option(*WORKERS, default=1, minimum=0)
    clip_memory: float = option(
        "--clip-memory",
        "GiB of decoded clips that a process holds, read ahead or before; with less than two batches training waits.",
        default=1.0,
        minimum=0,
    )
    strict: bool = option(*STRICT, default=False)
    limit: int | None = option(*LIMIT, default=None, minimum=1)


@request
class TrainTokenizerRequest(VideoOptions, TrainingOptions):
    """Train a tokenizer on videos (stage one)."""


@request
class TrainGeneratorRequest(VideoOptions, TrainingOptions):
    """Train a generator of pixels on videos, against its discriminators."""


@request
class FitControlsRequest(SettingsOptions):
    """Fit the encoders of controls.

    Controls are classes, states, sound and integers. The settings need the sections `data` and `controls`.
    """

    data: str = option(*DATA)
    out: Path = option(*OUT)
    split: Split = option(*SPLIT, default="train")
    workers: int = option(*WORKERS, default=1, minimum=0)


@request
class TrainPriorRequest(TrainingOptions):
    """Train a prior on a token cache (stage two).

    For several processes: accelerate launch --multi_gpu --num_processes N -m tokenreel train-prior ...
    """

    cache: Path = option(*CACHE)
    level: str | None = option(
        "--level", "Level to train a prior for, e.g. top, where the preset has one prior per level.", default=None
    )
    tokenizer: str | None = option(
        "--tokenizer",
        "Folder of the cache's tokenizer, or its repository on the Hub, by which trackers show decoded samples. "
        "Default: none.",
        default=None,
    )


@request
class EvaluateRequest(Request):
    """Score a saved prior: bits/code on a split of a cache, beside counted baselines."""

    prior: str = option("--prior", "Folder of a saved prior, or its repository on the Hub.")
    cache: Path = option(*CACHE)
    split: Split = option("--split", "Split whose clips are scored.", default="validation")
    given_frames: int | None = option(
        "--given-frames",
        "Number of first frames that are given. Default: as in the validation of its training.",
        default=None,
        minimum=0,
    )
    out: Path | None = option(
        "--out",
        "Folder for the bits of each clip, where the parts of several machines meet. Default: none.",
        default=None,
    )
    shard_index: int = option(
        "--shard-index", "Which of the --num-shards parts this call scores.", default=0, minimum=0
    )
    num_shards: int = option(
        "--num-shards", "Number of parts that the clips are divided into, for several machines.", default=1, minimum=1
    )
    device: str | None = option(*DEVICE, default=None)
    revision: str | None = option(*REVISION, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard_index >= self.num_shards:
            raise ConfigError(f"--shard-index (={self.shard_index}) must be below --num-shards (={self.num_shards})")
        if self.num_shards > 1 and self.out is None:
            raise ConfigError(f"--num-shards (={self.num_shards}) needs --out, where the parts meet")
