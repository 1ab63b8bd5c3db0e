"""`tokenreel pull`: from the Hugging Face Hub into a folder, which appears only when it is whole and verified."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tokenreel.errors import CacheError, HubError
from tokenreel.hub import download_folder, find_repo
from tokenreel.pipelines.artifacts.publishing import inspect_artifact
from tokenreel.pipelines.common.folders import fresh_folder


def run(repo: str, path: Path, revision: str | None) -> dict[str, Any]:
    """Fetches what `repo` holds at `revision` (branch, tag or commit) into the new folder `path`.

    A download that broke off lies in `path`.partial and is gone on with by the next call. Raises HubError where there
    is no such repository or revision, or where it holds something that is not ours or not whole.
    """
    fresh_folder(path, "PATH").rmdir()  # it can be made, and is once there is something to put into it
    repo_type, commit = find_repo(repo, revision)
    partial = path.with_name(f"{path.name}.partial")
    download_folder(repo, repo_type, commit, partial)
    try:
        published = inspect_artifact(partial)
    except (HubError, CacheError) as error:
        shutil.rmtree(partial)  # complete as the Hub has it, so going on would not mend it
        raise HubError(f"{repo} at {commit} is not whole or not ours: {error}") from error
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # huggingface_hub's own notes about the download
    partial.rename(path)
    return {"path": str(path), "kind": published.kind, "identity": published.identity, "revision": commit}
