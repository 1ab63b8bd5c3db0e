"""The pool's side of a decode worker: a process that answers questions about a source."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenreel.data.decoding.messages import ConnectionLost, receive, send
from tokenreel.data.decoding.worker_warnings import worker_warnings
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.open import SOURCES
from tokenreel.errors import DataError
from tokenreel.registry import registrations

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_EXIT_S = 1.0  # seconds that a process may take to exit once it has closed the connection
_STDERR_BYTES = 4096  # of the end of its standard error


class WorkerLost(Exception):
    """The process has exited or timed out; the message says how, with the last line that it wrote."""


@dataclass(frozen=True)
class WorkerStart:
    """What a worker is started with: its source, and limits of time and memory."""

    source: VideoSource
    probes: Path | None  # folder of its ProbeStore
    timeout_s: float  # seconds for the start, and from one sign of progress to the next or to the answer
    memory_gb: float  # GiB of address space


def memory_within_ours(memory_gb: float) -> float:
    """That many GiB, or as many as this process itself may have (`ulimit -v`) if that is less."""
    if sys.platform == "linux":
        import resource

        _, allowed = resource.getrlimit(resource.RLIMIT_AS)
        if allowed != resource.RLIM_INFINITY:
            return min(memory_gb, allowed / 2**30)
    return memory_gb


class WorkerProcess:
    """A worker process. Raises WorkerLost, and DataError if the worker finds other videos in the source."""

    def __init__(self, start: WorkerStart) -> None:
        self._timeout_s = start.timeout_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - its standard error, closed in stop()
        command = [sys.executable, "-P", "-m", "tokenreel.data.decoding.worker", start.source.location]
        command += [str(start.memory_gb), *([] if start.probes is None else [str(start.probes)])]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=os.environ | _ONE_THREAD
        )
        # A thread waits for messages: nothing else waits for a pipe with a time limit on every system.
        self._messages: queue.SimpleQueue[tuple[dict[str, Any], bytearray] | ConnectionLost] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            greeting, _ = self.ask(registrations([SOURCES]))
            if greeting["digest"] != start.source.digest:
                raise DataError(f"{start.source.location}: its videos changed while they were being read; start again")
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, question: dict[str, Any]) -> tuple[dict[str, Any], bytearray]:
        """Header and payload of the answer. Raises WorkerLost; DataError if the source itself fails."""
        assert self._process.stdin is not None
        try:
            send(self._process.stdin.fileno(), question)
        except ConnectionLost as error:
            raise WorkerLost(self._describe_end(error)) from error
        return self._answer()

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for file in (self._process.stdin, self._process.stdout, self._stderr):
            assert file is not None
            file.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                self._messages.put(receive(self._process.stdout.fileno()))
        except ConnectionLost as error:
            self._messages.put(error)

    def _answer(self) -> tuple[dict[str, Any], bytearray]:
        header = {"kind": "progress"}
        while header["kind"] == "progress":
            try:
                message = self._messages.get(timeout=self._timeout_s)
            except queue.Empty:
                raise WorkerLost(self._with_last_line("timed out")) from None
            if isinstance(message, ConnectionLost):
                raise WorkerLost(self._describe_end(message)) from message
            header, payload = message
            worker_warnings.add(header.pop("warnings", None))
        if header["kind"] == "error":
            raise DataError(header["message"])
        return header, payload

    def _describe_end(self, error: ConnectionLost) -> str:
        """What happened to a process that answers no longer, in words."""
        try:
            code = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            return self._with_last_line(str(error))
        return self._with_last_line(f"died (signal {-code})" if code < 0 else f"died (exit code {code})")

    def _with_last_line(self, problem: str) -> str:
        """`problem`, and the last line that the process wrote to its standard error."""
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - _STDERR_BYTES))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"{problem}: {lines[-1]}" if lines else problem
