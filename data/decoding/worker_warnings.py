"""What a decode worker warns of, on its way to the user: kept by the worker, logged by the pool's process."""

from __future__ import annotations

import logging
import threading
import warnings
from collections import deque
from typing import Any

from tokenreel.errors import MAX_SHOWN, visible

MAX_WARNINGS = 100  # distinct texts in a process; more are of a hostile source, or tell nothing new

logger = logging.getLogger(__name__)


class KeptWarnings(logging.Handler):
    """Keeps the texts of what is warned of, by `warnings` or a logger, until a message to the pool takes them along."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._seen: set[str] = set()
        self._texts: deque[str] = deque()

    def install(self) -> None:
        """For the whole process. Standard error, of which the pool shows the last line if this process dies, has the
        warnings too.
        """
        logging.basicConfig(handlers=[self, logging.StreamHandler()], level=logging.WARNING)
        warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}"
        logging.captureWarnings(True)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()[: 4 * MAX_SHOWN]
        except Exception:  # as every handler does: a wrong format in a library ends nothing
            self.handleError(record)
            return
        if text not in self._seen and len(self._seen) <= MAX_WARNINGS:  # one more, so that the pool says that it stops
            self._seen.add(text)
            self._texts.append(text)

    def take(self) -> list[str]:
        """Those since the last call."""
        return [self._texts.popleft() for _ in range(len(self._texts))]


class WarningLog:
    """Logs the texts of all workers, which may be those of a hostile file: each once, and MAX_WARNINGS at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # workers are asked by threads
        self._seen: set[str] = set()

    def add(self, texts: Any) -> None:
        for text in texts if isinstance(texts, list) else ():
            self._add(" ".join(visible(str(text)[: 4 * MAX_SHOWN]).split()))

    def _add(self, line: str) -> None:
        line = line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}..."
        with self._lock:
            count = len(self._seen)
            if line in self._seen or count > MAX_WARNINGS:
                return
            self._seen.add(line)
        if count == MAX_WARNINGS:
            logger.warning("decode workers warn of more than %d things: further ones are not shown", MAX_WARNINGS)
        else:
            logger.warning("decode worker: %s", line)


worker_warnings = WarningLog()  # of this process, so that a second pool does not repeat those of the first
