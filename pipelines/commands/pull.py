"""`tokenreel pull`: from the Hugging Face Hub into a folder, which appears only when it is complete and verified."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenreel.data.cache.files import durable_put, readable_json, sweep_partials
from tokenreel.errors import CacheError, HubError, UserError
from tokenreel.pipelines.artifacts.publishing import DOWNLOADS, Artifact, inspect_artifact
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.requests.artifacts import PullRequest
from tokenreel.repositories import download, find_repo

MARKER = "pull.json"  # of an unfinished download: what is being downloaded


def run(request: PullRequest) -> dict[str, Any]:
    """Downloads `repo` at `revision` (branch, tag or commit) into the new folder `path`. Files that do not belong to
    the artifact are not kept.

    An interrupted download stays in `path`.partial and is continued by the next call. Raises HubError where there is no
    such repository or revision, or where it holds no artifact of ours or an incomplete one, and UserError where
    `path`.partial is something else.
    """
    path = request.path
    fresh_folder(path, "PATH").rmdir()  # checks that it can be created; the download creates it when it is complete
    repo, repo_type, commit = find_repo(request.repo, request.revision)
    partial = path.with_name(f"{path.name}.partial")
    _begin_or_continue(partial, {"repo": repo, "type": repo_type, "revision": commit})
    download(repo, repo_type, DOWNLOADS[repo_type], commit, folder=partial)
    try:
        published = inspect_artifact(partial)
    except (HubError, CacheError) as error:
        shutil.rmtree(partial)  # it is what the Hub has, so continuing would not help
        raise HubError(f"{repo} at {commit} is incomplete or not written by tokenreel: {error}") from error
    _remove_strays(published, partial)
    partial.rename(path)
    (path / MARKER).unlink()  # not before, as a download without it is not continued
    return {"path": str(path), "kind": published.kind, "identity": published.identity, "revision": commit}


def _begin_or_continue(partial: Path, wanted: dict[str, str]) -> None:
    """Creates the folder of the download. Raises UserError for an existing one that is not of the same download."""
    marker = partial / MARKER
    partial.mkdir(exist_ok=True)
    sweep_partials(partial)
    if not any(partial.iterdir()):
        durable_put(marker, readable_json(wanted))
        return
    try:
        found = json.loads(marker.read_text())
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{partial} exists and is not an interrupted download: move it, or give another PATH") from None
    if found != wanted:
        of = " ".join(map(str, found.values())) if isinstance(found, dict) else "something else"
        raise UserError(
            f"{partial} is an interrupted download of {of}, not of {' '.join(wanted.values())}: remove it, or give "
            "another PATH"
        )


def _remove_strays(published: Artifact, folder: Path) -> None:
    """Removes what is not the artifact's, but for the marker: the client's own notes, files that push never sends."""
    for name in set(published.strays(folder)) - {MARKER}:
        (folder / name).unlink()
    for directory in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(directory.iterdir()):
            directory.rmdir()
