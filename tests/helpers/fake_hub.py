"""A small Hugging Face Hub over real HTTP on the loopback: enough of its protocol to push, pull and pin revisions.

Nothing of huggingface_hub is patched; HF_ENDPOINT points to this server. Commits are kept, so that an old revision can
be read. The switches of `FakeHub` (`cut`, `gated`, `refuses_uploads`) simulate failures of the real Hub.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

Files = dict[str, bytes]
LFS_SUFFIXES = (".safetensors", ".bin")


@dataclass
class Repo:
    """Commits by hash, and the branches and tags that point at them."""

    name: str
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def commit(self, branch: str, files: Files) -> str:
        content = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in files.items())
        sha = hashlib.sha1(f"{self.name} {len(self.commits)} {content}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class FakeHub:
    """The state of the server. `requests` lists (method, path) in the order of arrival."""

    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)  # (model | dataset, owner/name)
    blobs: Files = field(default_factory=dict)  # large files by sha256, uploaded before their commit
    requests: list[tuple[str, str]] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)  # file name -> how many of its downloads are interrupted half-way
    endless: dict[str, int] = field(default_factory=dict)  # file name -> bytes that are sent in chunks instead
    endless_answers: set[str] = field(default_factory=set)  # of "info", "compressed info" and "tree"
    silent: bool = False  # gives no answer to "info" until it is set back
    claimed: dict[str, int] = field(default_factory=dict)  # file name -> a size that is not its own
    sent: int = 0  # bytes of what is endless
    gated: set[str] = field(default_factory=set)
    refuses_uploads: bool = False
    refuses_writing: bool = False  # as without a token

    def files(self, repo_type: str, name: str, revision: str = "main") -> Files:
        repo = self.repos[repo_type, name]
        return repo.commits[repo.branches.get(revision, revision)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing; tests read `requests` instead."""

    def handle_any(self) -> None:
        url = urlparse(self.path)
        path = unquote(url.path)
        self.query = parse_qs(url.query)
        self.body = self._read_body()
        self.hub = self.server.hub
        self.hub.requests.append((self.command, path))
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                return answer(self, **match.groupdict())
        return self.send(404, {"error": f"the fake Hub does not know {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, status: int, data: Any, headers: dict[str, str] | None = None, announced: int | None = None) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(announced or len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):  # the client has seen enough, or has given up
                self.wfile.write(body)

    def find(self, kind: str, name: str, revision: str | None = None) -> tuple[Repo, str] | None:
        """Returns the repository and the commit, or sends an error and returns None."""
        repo = self.hub.repos.get((kind, name))
        if name in self.hub.gated:
            self.send(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        elif repo is None:
            self.send(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
        elif (sha := repo.find(revision or "main")) is None:
            self.send(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        else:
            return repo, sha
        return None


def _create_repo(request: _Handler) -> None:
    if request.hub.refuses_writing:
        return request.send(401, {"error": "Invalid username or password."})
    body = json.loads(request.body)
    name = f"{body['organization']}/{body['name']}" if body.get("organization") else body["name"]
    kind = body.get("type") or "model"
    if (kind, name) in request.hub.repos:
        return request.send(409, {"error": "exists", "url": f"{request.server.url}/{name}"})
    request.hub.repos[kind, name] = repo = Repo(name, private=body.get("visibility") == "private")
    repo.commit("main", {})
    prefix = "datasets/" if kind == "dataset" else ""
    return request.send(200, {"url": f"{request.server.url}/{prefix}{name}", "name": name})


def _create_branch(request: _Handler, kind: str, name: str, branch: str) -> None:
    if found := request.find(kind, name):
        repo, sha = found
        repo.branches.setdefault(branch, sha)
        request.send(200, {})


def _preupload(request: _Handler, kind: str, name: str) -> None:
    def plan(path: str) -> dict[str, Any]:
        mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}

    request.send(200, {"files": [plan(file["path"]) for file in json.loads(request.body)["files"]]})


def _lfs_batch(request: _Handler) -> None:
    def plan(item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "actions": {"upload": {"href": f"{request.server.url}/_lfs/{item['oid']}"}}}

    objects = json.loads(request.body)["objects"]
    request.send(200, {"transfer": "basic", "objects": [plan(item) for item in objects]})


def _lfs_put(request: _Handler, oid: str) -> None:
    if request.hub.refuses_uploads:
        return request.send(403, {"error": "quota exceeded"})
    assert hashlib.sha256(request.body).hexdigest() == oid, "the client uploaded other bytes than it announced"
    request.hub.blobs[oid] = request.body
    return request.send(200, {})


def _create_tag(request: _Handler, kind: str, name: str, revision: str) -> None:
    if found := request.find(kind, name, revision):
        repo, sha = found
        repo.branches[json.loads(request.body)["tag"]] = sha
        request.send(200, {})


def _commit(request: _Handler, kind: str, name: str, branch: str) -> None:
    found = request.find(kind, name, branch)
    if found is None:
        return
    repo, sha = found
    files = dict(repo.commits[sha])
    for line in map(json.loads, request.body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = request.hub.blobs[value["oid"]]
    sha = repo.commit(branch, files)
    url = f"{request.server.url}/{name}/commit/{sha}"
    request.send(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


def _info(request: _Handler, kind: str, name: str, revision: str | None = None) -> None:
    while request.hub.silent:
        time.sleep(0.05)
    if "compressed info" in request.hub.endless_answers:
        request.send(200, gzip.compress(bytes(400 << 20)), {"Content-Encoding": "gzip"})
    elif "info" in request.hub.endless_answers:
        _send_chunks(request, {}, 500 << 20)
    elif found := request.find(kind, name, revision):
        repo, sha = found
        siblings = [{"rfilename": path} for path in repo.commits[sha]]
        request.send(200, {"id": name, "sha": sha, "siblings": siblings, "private": False, "tags": []})


def _tree(request: _Handler, kind: str, name: str, revision: str) -> None:
    if "tree" in request.hub.endless_answers:
        _send_chunks(request, {}, 500 << 20)
    elif found := request.find(kind, name, revision):
        files = found[0].commits[found[1]]
        entries = [_entry(path, data) for path, data in files.items()]
        claimed = [{**entry, "size": request.hub.claimed.get(entry["path"], entry["size"])} for entry in entries]
        request.send(200, claimed)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if path.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100}
    return entry


def _download(request: _Handler, dataset: str | None, name: str, revision: str, path: str) -> None:
    found = request.find("dataset" if dataset else "model", name, revision)
    if found is None:
        return None
    repo, sha = found
    data = repo.commits[sha].get(path)
    if data is None:
        return request.send(404, {"error": "no file"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
    hashed = hashlib.sha256(data) if path.endswith(LFS_SUFFIXES) else hashlib.sha1(data)
    headers = {"ETag": f'"{hashed.hexdigest()}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
    if request.command == "HEAD":
        return request.send(200, data, headers, announced=request.hub.claimed.get(path))
    start = re.match(r"bytes=(\d+)-", request.headers.get("Range", ""))
    first = int(start[1]) if start else 0
    if start:
        headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
    if path in request.hub.endless:
        return _send_chunks(request, headers, request.hub.endless[path])
    rest = data[first:]
    if request.hub.cut.get(path, 0):
        request.hub.cut[path] -= 1
        request.close_connection = True  # the client waits in vain for the rest of the announced length
        return request.send(206 if start else 200, rest[: len(rest) // 2], headers, announced=len(rest))
    return request.send(206 if start else 200, rest, headers)


def _send_chunks(request: _Handler, headers: dict[str, str], size: int) -> None:
    """A body of `size` zero bytes, whose header does not say how long it is."""
    request.close_connection = True
    request.send_response(200)
    for name, value in {"Transfer-Encoding": "chunked", **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    chunk = bytes(1 << 20)
    try:
        for _ in range(0, size, len(chunk)):
            request.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            request.hub.sent += len(chunk)
        request.wfile.write(b"0\r\n\r\n")
    except OSError:  # the client has seen enough
        return


_REPO = r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"POST /api/repos/create", _create_repo),
    (r"POST /api/validate-yaml", lambda request: request.send(200, {"errors": [], "warnings": []})),
    (rf"POST {_REPO}/branch/(?P<branch>.+)", _create_branch),
    (rf"POST {_REPO}/tag/(?P<revision>.+)", _create_tag),
    (rf"POST {_REPO}/preupload/.+", _preupload),
    (rf"POST {_REPO}/commit/(?P<branch>.+)", _commit),
    (r"POST .+\.git/info/lfs/objects/batch", _lfs_batch),
    (r"PUT /_lfs/(?P<oid>\w+)", _lfs_put),
    (rf"GET {_REPO}(/revision/(?P<revision>.+))?", _info),
    (rf"GET {_REPO}/tree/(?P<revision>[^/]+)", _tree),
    (
        r"(GET|HEAD) /(?P<dataset>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        _download,
    ),
]


class Server(ThreadingHTTPServer):
    """Binds its port at once, and serves after `start`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = FakeHub()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, daemon=True).start()
