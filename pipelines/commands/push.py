"""`tokenreel push`: a folder to the Hugging Face Hub, after checking that it is intact."""

from __future__ import annotations

from typing import Any

from tokenreel.pipelines.artifacts.publishing import inspect_artifact
from tokenreel.pipelines.requests.artifacts import PushRequest
from tokenreel.repositories import push_folder


def run(request: PushRequest) -> dict[str, Any]:
    """Publishes the saved model or cache in `path` as `repo`, on the branch `revision` (None: main).

    Raises HubError where the Hub refuses or cannot be reached; running it again continues the upload, and CacheError or
    HubError where the folder is not intact.
    """
    published = inspect_artifact(request.path)
    strays = tuple(published.strays(request.path))
    commit = push_folder(
        request.path, request.repo, published.upload, request.revision, private=request.private, omit=strays
    )
    return {"repo": request.repo, "kind": published.kind, "identity": published.identity, "revision": commit}
