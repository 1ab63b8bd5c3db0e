"""One decode worker as the pool sees it: a process that answers questions about a source, or is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from tokenreel.data.decoding.messages import ConnectionLost, TimedOut, receive, send
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.open import SOURCES
from tokenreel.errors import DataError
from tokenreel.registry import registrations

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_DYING_S = 1.0  # seconds that a process may take to end once it has hung up
_WORDS_LIMIT = 4096  # bytes of its standard error that are looked at


class WorkerLost(Exception):
    """The process is gone or was given up; the text says how, with the last line that it wrote."""


@dataclass(frozen=True)
class WorkerLimits:
    """What one worker may use."""

    timeout_s: float  # seconds for one answer, and for starting
    memory_gb: float  # GiB of address space


class WorkerProcess:
    """Starts a worker on `source`. Raises WorkerLost, and DataError where the worker sees other videos than we do."""

    def __init__(self, source: VideoSource, limits: WorkerLimits) -> None:
        self._limits = limits
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - its standard error, closed in stop()
        command = [sys.executable, "-P", "-m", "tokenreel.data.decoding.worker", source.location, str(limits.memory_gb)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, env=os.environ | _ONE_THREAD
        )
        try:
            greeting, _ = self.ask(registrations([SOURCES]))
            if greeting["digest"] != source.digest:
                raise DataError(f"{source.location}: its videos changed while they were being read; start again")
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, question: dict[str, Any]) -> tuple[dict[str, Any], bytearray]:
        """Header and payload of the answer. Raises WorkerLost; DataError where the source itself fails."""
        assert self._process.stdin is not None
        try:
            send(self._process.stdin.fileno(), question)
        except ConnectionLost as error:
            raise WorkerLost(self._how(error)) from error
        return self._answer()

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._words.close()

    def _answer(self) -> tuple[dict[str, Any], bytearray]:
        assert self._process.stdout is not None
        try:
            header, payload = receive(self._process.stdout.fileno(), self._limits.timeout_s)
        except ConnectionLost as error:
            raise WorkerLost(self._how(error)) from error
        if header["kind"] == "error":
            raise DataError(header["message"])
        return header, payload

    def _how(self, error: ConnectionLost) -> str:
        """How the process was lost, in words."""
        how = str(error)
        if not isinstance(error, TimedOut):
            try:
                code = self._process.wait(_DYING_S)
                how = f"died (signal {-code})" if code < 0 else f"died (exit code {code})"
            except subprocess.TimeoutExpired:
                how = "hung up"
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - _WORDS_LIMIT))
        lines = self._words.read().decode(errors="replace").strip().splitlines()
        return f"{how}: {lines[-1]}" if lines else how
