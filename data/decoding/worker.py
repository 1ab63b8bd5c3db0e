"""The process that decodes for a pool: `python -m tokenreel.data.decoding.worker LOCATION MEMORY_GB [PROBES]`.

The first message on its standard input lists the kinds of sources added in Python; then it answers questions until
standard input is closed. It does not import torch, so that it starts quickly, and whatever a hostile file does to a
decoder happens here, under a memory limit.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.config import from_mapping
from tokenreel.data.controls.inputs import ControlRequest, SoundSource, TableSource
from tokenreel.data.decoding.control_inputs import read_control_input
from tokenreel.data.decoding.messages import ConnectionLost, receive, send
from tokenreel.data.decoding.worker_warnings import KeptWarnings
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.open import SOURCES, open_source
from tokenreel.data.spec import Framing
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.data.video.probe_store import ProbeStore
from tokenreel.errors import DataError, UserError
from tokenreel.registry import register_again

Answer = tuple[dict[str, Any], np.ndarray]
_SOURCES: dict[str, type[TableSource] | type[SoundSource]] = {cls.type: cls for cls in (TableSource, SoundSource)}
_NOTHING = np.empty(0, np.uint8)
_warnings = KeptWarnings()
PROGRESS_S = 0.5  # seconds between messages of progress; far below any limit


def main() -> None:
    """Answers questions until the pool closes the connection."""
    location, memory_gb, *probes = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pool's process, which may first finish its step
    limit_memory(float(memory_gb))
    answers = os.dup(1)
    os.dup2(2, 1)  # keeps what a library prints out of the answers
    _warnings.install()
    try:
        registered, _ = receive(0)
        register_again([SOURCES], registered)
        # webdataset imports torch where it is installed, which costs seconds and 190 MB, and works without it
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
        with Heartbeat(answers):
            source = open_source(location)
    except ConnectionLost:
        return
    except UserError as error:
        _send(answers, {"kind": "error", "message": str(error)})
        return
    source.on_progress = Progress(answers)
    for folder in probes:
        source.probe_store = ProbeStore(Path(folder))
    _send(answers, {"kind": "ready", "digest": source.digest})
    try:
        while True:
            question, _ = receive(0)
            header, array = answer(source, question)
            _send(answers, header, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    except ConnectionLost:
        return


def _send(descriptor: int, header: dict[str, Any], payload: memoryview | bytes = b"") -> None:
    """Sends a message, which takes along what this process has warned of since the last one."""
    warned = _warnings.take()
    send(descriptor, {**header, "warnings": warned} if warned else header, payload)


def limit_memory(memory_gb: float) -> None:
    """Limits the address space of this process to `memory_gb` GiB.

    Only on Linux: Windows has no such limit, and macOS maps more than that into every process at its start.
    """
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit = int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


class Progress:
    """Tells the pool, when called, that this process does not hang; at most once in PROGRESS_S seconds."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._sent = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._sent > PROGRESS_S:
            self._sent = now
            _send(self._descriptor, {"kind": "progress"})


class Heartbeat:
    """A context manager that reports progress from a thread of its own: listing millions of files may take minutes, and
    the pool's process, which opened the same location, has seen it end.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(PROGRESS_S):
            try:
                _send(self._descriptor, {"kind": "progress"})
            except ConnectionLost:  # the pool has gone, which the main thread will find
                return


def answer(source: VideoSource, question: dict[str, Any]) -> Answer:
    """The header and payload of the answer to one question: `probe`, `control` or `read`."""
    try:
        if question["kind"] == "probe":
            probe = source.probe(question["video"])
            header = {name: getattr(probe, name) for name in ("height", "width", "codec", "last_duration")}
            return {"kind": "probe", **header}, probe.frame_times
        if question["kind"] == "control":
            values = read_control_input(source, _control_request(question))
            return {"kind": "control", "shape": values.shape}, values
        framing = from_mapping(Framing, question["framing"], "framing")
        indices = np.array(question["indices"], dtype=np.int64)
        frames = source.read(question["video"], indices, framing)
        return {"kind": "frames", "shape": frames.shape}, frames
    except DecodeFailure as failure:
        return {"kind": "failure", "reason": failure.reason, "detail": failure.detail}, _NOTHING
    except DataError as error:
        return {"kind": "error", "message": str(error)}, _NOTHING


def _control_request(question: dict[str, Any]) -> ControlRequest:
    source = from_mapping(_SOURCES[question["source"]["type"]], question["source"], "source")
    ticks, frames = (np.array(question[name], dtype=np.int64) for name in ("ticks", "source_frames"))
    return ControlRequest(question["video"], source, ticks, frames, question["frame_rate"])


if __name__ == "__main__":
    main()
