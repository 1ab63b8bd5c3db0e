"""`tokenreel push`: a folder to the Hugging Face Hub. What is not whole is not published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenreel.hub import push_folder
from tokenreel.pipelines.artifacts.publishing import inspect_artifact


def run(path: Path, repo: str, revision: str | None) -> dict[str, Any]:
    """Publishes the tokenizer, prior or cache in `path` as `repo`, on the branch `revision` (None: the main one).

    Raises HubError where the Hub refuses or is out of reach; running it again goes on.
    """
    published = inspect_artifact(path)
    commit = push_folder(path, repo, published.upload, revision)
    return {"repo": repo, "kind": published.kind, "identity": published.identity, "revision": commit}
