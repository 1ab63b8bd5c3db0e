"""Requests about artifacts, caches, runs and saved models alike: inspect, verify, push, pull."""

from __future__ import annotations

from pathlib import Path

from tokenreel.errors import ConfigError
from tokenreel.pipelines.requests.fields import Request, argument, option, request
from tokenreel.pipelines.requests.shared import REVISION


@request
class InspectRequest(Request):
    """Describe a cache, token file, run or saved model, or with --data a data set.

    Of a data set the files are listed, by split, by class and by the reason why they are skipped; no video is opened.
    """

    path: Path | None = argument("PATH", default=None)
    data: str | None = option(
        "--data", "Data set to describe instead of PATH, as --data of tokenize-dataset. Default: none.", default=None
    )
    strict: bool = option("--strict", "Fail if anything at --data is skipped.", default=False)
    pictures: Path | None = option(
        "--pictures",
        "New folder for pictures of a cache's or token file's tokens. Default: none.",
        default=None,
    )
    num_clips: int = option(
        "--num-clips", "Number of clips in the pictures, spread over the cache.", default=8, minimum=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.path is None) == (self.data is None):
            raise ConfigError("give either the PATH of a cache, token file, run or saved model, or --data")
        if self.data is not None and self.pictures is not None:
            raise ConfigError("--pictures are of a cache's tokens: omit it with --data")
        if self.strict and self.data is None:
            raise ConfigError("--strict is for --data: omit it")


@request
class VerifyRequest(Request):
    """Check that a cache, token file, run or model is intact."""

    path: Path = argument("PATH")


@request
class PushRequest(Request):
    """Publish a model or cache on the Hugging Face Hub."""

    path: Path = argument("PATH")
    repo: str = argument("REPO")
    revision: str | None = option(
        "--revision", "Branch to push to, created if it does not exist. Default: the main branch.", default=None
    )
    private: bool = option("--private", "If the repository does not exist yet, create a private one.", default=False)


@request
class PullRequest(Request):
    """Download a model or cache from the Hugging Face Hub."""

    repo: str = argument("REPO")
    path: Path = argument("PATH")
    revision: str | None = option(*REVISION, default=None)
