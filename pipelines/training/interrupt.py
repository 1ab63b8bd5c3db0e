"""Signals as a request to stop, which the loop handles at the end of a step, not in a signal handler."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

# Ctrl-C; a closed terminal or connection; what batch systems send ahead of the end of a job. Windows has the first two.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


class Interrupt:
    """A context manager in which the first signal sets `requested`; a second one has its usual effect.

    `launched`: this is one of several processes. Each then gets a signal twice, from the terminal or the batch system
    and from its launcher, so that further ones have no effect. Signals that the process was started to ignore (nohup)
    stay ignored.
    """

    def __init__(self, launched: bool = False) -> None:
        self.requested = False
        self._launched = launched
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals there only
            for number in STOP_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self._launched:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
