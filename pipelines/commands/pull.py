"""`tokenreel pull`: from the Hugging Face Hub into a folder, which appears only when it is complete and verified."""

from __future__ import annotations

import shutil
from typing import Any

from tokenreel.errors import CacheError, HubError
from tokenreel.hub import download_folder, find_repo
from tokenreel.pipelines.artifacts.publishing import inspect_artifact
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.requests.artifacts import PullRequest


def run(request: PullRequest) -> dict[str, Any]:
    """Downloads `repo` at `revision` (branch, tag or commit) into the new folder `path`.

    An interrupted download stays in `path`.partial and is continued by the next call. Raises HubError where there is no
    such repository or revision, or where it holds no artifact of ours or an incomplete one.
    """
    repo, path = request.repo, request.path
    fresh_folder(path, "PATH").rmdir()  # checks that it can be created; the download creates it when it is complete
    repo_type, commit = find_repo(repo, request.revision)
    partial = path.with_name(f"{path.name}.partial")
    download_folder(repo, repo_type, commit, partial)
    try:
        published = inspect_artifact(partial)
    except (HubError, CacheError) as error:
        shutil.rmtree(partial)  # it is what the Hub has, so continuing would not help
        raise HubError(f"{repo} at {commit} is incomplete or not written by tokenreel: {error}") from error
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # huggingface_hub's own notes about the download
    partial.rename(path)
    return {"path": str(path), "kind": published.kind, "identity": published.identity, "revision": commit}
