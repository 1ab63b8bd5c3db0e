"""The pool's side of a decode worker: a process that answers questions about a source."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenreel.data.decoding.messages import ConnectionLost, TimedOut, receive, send
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
            raise WorkerLost(self._describe(error)) from error
        return self._answer()

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def _answer(self) -> tuple[dict[str, Any], bytearray]:
        assert self._process.stdout is not None
        try:
            header = {"kind": "progress"}
            while header["kind"] == "progress":
                header, payload = receive(self._process.stdout.fileno(), self._timeout_s)
        except ConnectionLost as error:
            raise WorkerLost(self._describe(error)) from error
        if header["kind"] == "error":
            raise DataError(header["message"])
        return header, payload

    def _describe(self, error: ConnectionLost) -> str:
        """What happened to the process, in words."""
        problem = str(error)
        if not isinstance(error, TimedOut):
            try:
                code = self._process.wait(_EXIT_S)
                problem = f"died (signal {-code})" if code < 0 else f"died (exit code {code})"
            except subprocess.TimeoutExpired:
                problem = "closed the connection"
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - _STDERR_BYTES))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"{problem}: {lines[-1]}" if lines else problem
