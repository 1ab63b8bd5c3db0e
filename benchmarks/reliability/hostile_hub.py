"""A server in place of the Hub, whose repositories answer without end, or with sizes that are not those of files."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0" * 40
HUGE = 10**15  # bytes, that a file claims
WEIGHTS = "model.safetensors"
# What is hostile about a repository, by its name.
ATTACKS = {
    "endless-weights": "weights without end, in chunks",
    "endless-config": "a configuration without end, in chunks",
    "longer": "weights without end, after a header of 10^15 bytes",
    "claimed": "weights of 10^15 bytes",
    "endless-info": "information about a repository without end",
    "endless-tree": "a listing without end",
    "silent": "no answer about a repository",
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""

    def do_GET(self) -> None:
        self.close_connection = True
        try:
            self._answer()
        except OSError:  # the client has seen enough
            return

    do_HEAD = do_GET

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        if api := re.fullmatch(r"/api/models/me/([\w-]+)(/(tree|revision)/.*)?", path):
            return self._describe(api[1], is_tree=api[3] == "tree")
        if file := re.fullmatch(r"/me/([\w-]+)/resolve/\w+/([\w.]+)", path):
            return self._send_file(file[1], file[2])
        return self._send(404, b"{}")

    def _describe(self, name: str, is_tree: bool) -> None:
        files = {path.name: path.read_bytes() for path in self.server.model.iterdir() if path.is_file()}
        if name == "silent":
            threading.Event().wait()
        elif name == ("endless-tree" if is_tree else "endless-info"):
            self._send_chunks({}, b"[" + b'"a",' * 2**18)
        elif is_tree:
            sizes = {file: (self._size(name, file, content), _hash(content)) for file, content in files.items()}
            entries = [{"type": "file", "path": f, "size": size, "oid": oid} for f, (size, oid) in sizes.items()]
            self._send(200, json.dumps(entries).encode())
        else:
            about = {"id": f"me/{name}", "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            self._send(200, json.dumps(about).encode())

    def _size(self, name: str, file: str, content: bytes) -> int:
        return HUGE if file == WEIGHTS and name in ("longer", "claimed") else len(content)

    def _send_file(self, name: str, file: str) -> None:
        content = (self.server.model / file).read_bytes()
        headers = {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": COMMIT}
        size = str(self._size(name, file, content))
        if self.command == "HEAD":
            return self._send(200, content, {**headers, "Content-Length": size})
        if (name, file) in (("endless-weights", WEIGHTS), ("endless-config", "config.json")):
            return self._send_chunks(headers, bytes(1 << 20))
        if (name, file) == ("longer", WEIGHTS):
            return self._send_forever({**headers, "Content-Length": size})
        return self._send(200, content, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._start(status, {"Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_chunks(self, headers: dict[str, str], chunk: bytes) -> None:
        self._start(200, {"Transfer-Encoding": "chunked", **headers})
        while True:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))

    def _send_forever(self, headers: dict[str, str]) -> None:
        self._start(200, headers)
        while True:
            self.wfile.write(bytes(1 << 20))

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, model: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = model


def serve_hostile_hub(model: Path) -> str:
    """Starts the server, which runs until this process ends. Returns its address; the repositories me/NAME have the
    files of `model`.
    """
    server = _Server(model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
