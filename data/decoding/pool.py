"""Decoding in worker processes that may die without taking the job along.

Answers come in the order of the requests. A worker that dies or times out is replaced and asked again. What a video
causes every time is a DecodeFailure; what may succeed next time is an error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np

from tokenreel.config import to_mapping
from tokenreel.data.controls.needs import ControlRequest
from tokenreel.data.decoding.process import WorkerLimits, WorkerLost, WorkerProcess
from tokenreel.data.decoding.raw_controls import read_raw
from tokenreel.data.sources.base import ReadRequest, VideoSource
from tokenreel.data.sources.open import open_source
from tokenreel.data.video.reader import DecodeFailure, VideoProbe
from tokenreel.errors import DataError

T = TypeVar("T")

TRIES = 3  # of one request, before its video is named and the job stops


class DecodeWorkerLost(DataError):
    """A worker died or ran out of time over the same request, each time it was tried."""


@dataclass(frozen=True, eq=False)
class ReadResult:
    """The answer to a request: frames, or why there are none."""

    request: ReadRequest
    frames: np.ndarray | None  # uint8 [n, H, W, 3]
    failure: DecodeFailure | None


@dataclass(frozen=True, eq=False)
class ControlResult:
    """The answer to a request for a control: its inputs, or why there are none."""

    request: ControlRequest
    values: np.ndarray | None  # float32 [m, ...]
    failure: DecodeFailure | None


class DecodePool:
    """Decodes the videos at `location` in `workers` processes; with 0 in the calling process, unprotected.

    `timeout_s` is the time for one request, `memory_gb` the address space of one worker. To be used in a `with`.
    Requests for one video that follow one another go to the same worker, which then decodes it in one pass.
    """

    def __init__(self, location: str, workers: int, timeout_s: float = 120.0, memory_gb: float = 4.0) -> None:
        if workers < 0:
            raise ValueError(f"workers (={workers}) must be 0 or more")
        self.source: VideoSource = open_source(location)
        self.workers = workers
        limits = WorkerLimits(timeout_s, memory_gb)
        self._crew = [_Worker(self.source, limits) for _ in range(workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers; what was not answered yet is dropped."""
        for worker in self._crew:
            worker.close()

    def submit(self, request: ReadRequest) -> Future[ReadResult]:
        """Asks for frames; with no workers they are there on return.

        The future raises DataError where the source itself fails, and DecodeWorkerLost.
        """
        return self._submit(request.video, partial(_ask_to_read, request), partial(self._read_here, request))

    def read(self, requests: Iterable[ReadRequest], ahead: int) -> Iterator[ReadResult]:
        """Results in the order of `requests`, of which `ahead` are in flight at most. Raises as `submit`'s futures."""
        return self._in_order(map(self.submit, requests), ahead)

    def read_controls(self, requests: Iterable[ControlRequest], ahead: int) -> Iterator[ControlResult]:
        """Control inputs in the order of `requests`, as `read`."""
        asked = (self._submit(r.video, partial(_ask_for_raw, r), partial(self._read_raw_here, r)) for r in requests)
        return self._in_order(asked, ahead)

    def probe(self, indices: Iterable[int]) -> Iterator[VideoProbe | DecodeFailure]:
        """What the containers of these videos say, in order. Raises as `submit`'s futures."""
        asked = (self._submit(i, partial(_ask_to_probe, i), partial(self._probe_here, i)) for i in indices)
        return self._in_order(asked, 4 * self.workers)

    def _submit(self, video: int, ask: Callable[[_Worker], T], here: Callable[[], T]) -> Future[T]:
        if self._crew:
            holder = next((worker for worker in self._crew if worker.video == video), None)
            return (holder or min(self._crew, key=lambda worker: worker.backlog)).submit(video, ask)
        future: Future[T] = Future()
        try:
            future.set_result(here())
        except DataError as error:
            future.set_exception(error)
        return future

    def _in_order(self, asked: Iterator[Future[T]], ahead: int) -> Iterator[T]:
        waiting: deque[Future[T]] = deque()
        for future in asked:
            waiting.append(future)
            if not self._crew or len(waiting) >= max(ahead, 1):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _read_here(self, request: ReadRequest) -> ReadResult:
        try:
            return ReadResult(request, self.source.read(request.video, request.indices, request.framing), None)
        except DecodeFailure as failure:
            return ReadResult(request, None, failure)

    def _read_raw_here(self, request: ControlRequest) -> ControlResult:
        try:
            return ControlResult(request, read_raw(self.source, request), None)
        except DecodeFailure as failure:
            return ControlResult(request, None, failure)

    def _probe_here(self, video: int) -> VideoProbe | DecodeFailure:
        try:
            return self.source.probe(video)
        except DecodeFailure as failure:
            return failure


class _Worker:
    """A process, replaced when it is lost, and the thread that talks to it."""

    def __init__(self, source: VideoSource, limits: WorkerLimits) -> None:
        self._source, self._limits = source, limits
        self._thread = ThreadPoolExecutor(1, "decode")
        self._process: WorkerProcess | None = None
        self._closed = False
        self._asked: list[Future[Any]] = []
        self.video: int | None = None  # that was asked for last

    @property
    def backlog(self) -> int:
        self._asked = [future for future in self._asked if not future.done()]
        return len(self._asked)

    def submit(self, video: int, ask: Callable[[_Worker], T]) -> Future[T]:
        self.video = video
        future = self._thread.submit(ask, self)
        self._asked.append(future)
        return future

    def close(self) -> None:
        self._closed = True
        if self._process is not None:
            self._process.kill()  # the thread, if it waits for an answer, then does so no longer
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._stop()

    def ask(self, question: dict[str, Any]) -> tuple[dict[str, Any], bytearray]:
        """The answer to a question about a video. Raises DataError, and DecodeWorkerLost after TRIES attempts."""
        how = "was closed"
        for _ in range(TRIES):
            if self._closed:
                break
            try:
                self._process = self._process or WorkerProcess(self._source, self._limits)
                return self._process.ask(question)
            except WorkerLost as lost:
                how = str(lost)
                self._stop()
        name = self._source.entries[question["video"]].id
        raise DecodeWorkerLost(
            f"{name}: each of {TRIES} processes that were to read it {how} (limits: {self._limits.timeout_s:g} s, "
            f"{self._limits.memory_gb:g} GiB). Try again, or exclude this video"
        )

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.stop()


def _ask_to_read(request: ReadRequest, worker: _Worker) -> ReadResult:
    question = {
        "kind": "read",
        "video": request.video,
        "indices": request.indices.tolist(),
        "framing": to_mapping(request.framing),
    }
    header, payload = worker.ask(question)
    if header["kind"] == "failure":
        return ReadResult(request, None, DecodeFailure(header["reason"], header["detail"]))
    return ReadResult(request, np.frombuffer(payload, np.uint8).reshape(header["shape"]), None)


def _ask_for_raw(request: ControlRequest, worker: _Worker) -> ControlResult:
    question = {
        "kind": "raw",
        "video": request.video,
        "need": to_mapping(request.need),
        "ticks": request.ticks.tolist(),
        "source_frames": request.source_frames.tolist(),
        "frame_rate": request.frame_rate,
    }
    header, payload = worker.ask(question)
    if header["kind"] == "failure":
        return ControlResult(request, None, DecodeFailure(header["reason"], header["detail"]))
    return ControlResult(request, np.frombuffer(payload, np.float32).reshape(header["shape"]), None)


def _ask_to_probe(video: int, worker: _Worker) -> VideoProbe | DecodeFailure:
    header, payload = worker.ask({"kind": "probe", "video": video})
    if header["kind"] == "failure":
        return DecodeFailure(header["reason"], header["detail"])
    return VideoProbe(np.frombuffer(payload, np.float64), header["height"], header["width"], header["codec"])
