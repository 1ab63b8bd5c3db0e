"""Repositories on the Hugging Face Hub: their names, downloads and uploads, and what the Hub's errors mean."""

from __future__ import annotations

import glob
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm

from tokenreel.errors import HubError
from tokenreel.hub_answers import bounded_answers

# An HTTP error of the Hub is an OSError and an error of the HTTP library (httpx before huggingface_hub 2, then httpx2).
# Its bases therefore also catch a refused connection or a timeout, in either version.
_TRANSPORT_ERRORS: tuple[type[Exception], ...] = HfHubHTTPError.__bases__

HUB_PREFIX = "hf://"  # what follows is a repository, whatever folders there are; as in huggingface_hub's file system
_DATASETS = "datasets/"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SLACK_BYTES = 1 << 20  # of a download beyond its announced size

RepoType = Literal["model", "dataset"]


def parse_repo(text: str) -> tuple[str, RepoType | None]:
    """OWNER/NAME and the type of repository that `text` names: hf://OWNER/NAME, hf://datasets/OWNER/NAME, or OWNER/NAME
    of either type (None). Raises HubError for anything else.
    """
    repo = text.removeprefix(HUB_PREFIX)
    name = repo.removeprefix(_DATASETS) if repo != text else repo
    if not _REPO_ID.fullmatch(name) or ".." in name:
        raise HubError(f"{text} is neither a folder nor the name of a repository on the Hub (OWNER/NAME)")
    if repo == text:
        return name, None
    return name, "model" if name == repo else "dataset"


@contextmanager
def hub_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Converts errors of the Hub inside the block to HubErrors that say what to do, and bounds its answers."""
    try:
        with bounded_answers():
            yield
    except GatedRepoError as error:
        raise HubError(f"{repo} is gated: request access on its page on the Hub, then run `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{repo} is neither a local folder nor a repository on the Hub (if it is private, run `hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repo} has no revision {revision!r}; give a branch, a tag or a full commit hash") from error
    except HFValidationError as error:
        raise HubError(f"{repo!r} is not the name of a repository, OWNER/NAME: {error}") from error
    except EntryNotFoundError as error:  # offline, and not or only partly in the local cache
        raise HubError(
            f"{repo} is not a local folder, not in the local cache, and cannot be downloaded: {_first_line(error)}; "
            "check the name, or the connection"
        ) from error
    except _TRANSPORT_ERRORS as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            raise HubError(
                f"{repo}: the Hub refused ({error.response.status_code}); run `hf auth login` with a token that has "
                "the permission"
            ) from error
        raise HubError(f"{repo}: the connection to the Hub failed: {_first_line(error)}; try again") from error
    except (KeyError, ValueError) as error:  # of an answer that is not JSON, lacks something or claims what cannot be
        raise HubError(f"{repo}: an answer of the Hub cannot be used: {_first_line(error)}; try again") from error
    except UserWarning as warning:  # see `download`
        raise HubError(f"{repo}: {_first_line(warning)}") from warning
    except RuntimeError as error:  # huggingface_hub's wrapper of errors in the upload of large files
        cause = error.__cause__
        if not isinstance(cause, _TRANSPORT_ERRORS):
            raise
        raise HubError(f"{repo}: {_first_line(error)} {_first_line(cause)}; try again") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class Upload:
    """The files of a folder to upload. `last` proves the others to be complete, so it is committed after them."""

    repo_type: RepoType
    files: tuple[str, ...]  # glob patterns below the folder
    last: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)  # files by name that are uploaded with this content instead


def push_folder(
    folder: Path,
    repo: str,
    upload: Upload,
    revision: str | None = None,
    *,
    private: bool = False,
    omit: Iterable[str] = (),
) -> str:
    """Uploads to a repository and branch (`revision`), created if necessary, without the files `omit`. Returns the hash
    of the last commit.

    A repository that exists already stays as public or as private as it is.
    """
    api = HfApi()
    omitted = [glob.escape(name) for name in omit]
    repo, repo_type = parse_repo(repo)
    if repo_type not in (None, upload.repo_type):
        raise HubError(f"{repo} cannot be a {repo_type} repository, as this is a {upload.repo_type}: give {repo}")
    with hub_errors(repo, revision), tempfile.TemporaryDirectory() as texts:
        for name, text in upload.texts.items():
            Path(texts, name).write_text(text, encoding="utf-8")
        repo = api.create_repo(repo, repo_type=upload.repo_type, private=private or None, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo, branch=revision, repo_type=upload.repo_type, exist_ok=True)
        for source, patterns in ((texts, tuple(upload.texts)), (folder, upload.files), (folder, upload.last)):
            if patterns:
                commit = api.upload_folder(
                    repo_id=repo,
                    repo_type=upload.repo_type,
                    folder_path=source,
                    revision=revision,
                    allow_patterns=list(patterns),
                    ignore_patterns=omitted,
                    commit_message=f"Upload {', '.join(patterns)} with tokenreel",
                )
    return str(commit.oid)


def find_repo(text: str, revision: str | None) -> tuple[str, RepoType, str]:
    """OWNER/NAME, the type of the repository, "model" or "dataset", and the commit hash of `revision`.

    Raises HubError where there are a model and a data set of this name and `text` does not say which.
    """
    api = HfApi()
    repo, repo_type = parse_repo(text)
    with hub_errors(repo, revision):
        if repo_type is None:
            is_model, is_dataset = (api.repo_exists(repo, repo_type=kind) for kind in ("model", "dataset"))
            if is_model and is_dataset:
                raise HubError(
                    f"{repo} is a model and a data set on the Hub: give {HUB_PREFIX}{repo} for the model, or "
                    f"{HUB_PREFIX}{_DATASETS}{repo} for the data set (a token cache)"
                )
            repo_type = "model" if is_model else "dataset"
        return repo, repo_type, str(api.repo_info(repo, revision=revision, repo_type=repo_type).sha)


class BoundedProgress(tqdm):
    """The Hub client's progress bar, which it advances by what has arrived: the only place to stop a body without end,
    as the client compares its size with the announced one afterwards.
    """

    arrived = 0.0

    def update(self, n: float | None = 1) -> bool | None:
        self.arrived += n or 0
        if self.total and self.arrived > self.total + _SLACK_BYTES:
            raise HubError(f"the Hub sends more than the {self.total:,} bytes that it announced; try again")
        return super().update(n)


def download(
    repo: str,
    repo_type: RepoType,
    files: Sequence[str],
    revision: str | None = None,
    *,
    folder: Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Downloads the `files` (glob patterns) of a repository, except those that are there and complete, to `folder` or
    into the local cache of the Hub's client. Returns the folder that holds them.
    """
    with hub_errors(repo, revision), warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough free disk space", UserWarning)  # it would go on, and fill the disk
        downloaded = snapshot_download(
            repo,
            repo_type=repo_type,
            revision=revision,
            local_dir=folder,
            local_files_only=local_files_only,
            allow_patterns=list(files),
            tqdm_class=BoundedProgress,
        )
    return Path(str(downloaded))
