"""Decoding in worker processes, which may crash without ending the job.

Results come in the order of the requests. A worker that crashes or times out is replaced and the request repeated.
A problem that a video causes every time is a DecodeFailure; one that may not occur again is an error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from tokenreel.config import to_mapping
from tokenreel.data.controls.inputs import ControlRequest
from tokenreel.data.decoding.control_inputs import read_control_input
from tokenreel.data.decoding.process import WorkerLost, WorkerProcess, WorkerStart, memory_within_ours
from tokenreel.data.sources.base import ReadRequest, VideoSource
from tokenreel.data.sources.open import open_source
from tokenreel.data.video.probe import DecodeFailure, VideoProbe
from tokenreel.data.video.probe_store import ProbeStore
from tokenreel.errors import DataError

T = TypeVar("T")

MAX_ATTEMPTS = 3  # of one request, before the job stops with the name of its video
MAX_LEAD = 2  # requests by which the worker on a video may be behind the others before one of these joins it


class DecodeWorkerLost(DataError):
    """A request made a worker crash or time out on every attempt."""


@dataclass(frozen=True, eq=False)
class ReadResult:
    """The result of a request: frames, or the reason why there are none."""

    request: ReadRequest
    frames: np.ndarray | None  # uint8 [n, H, W, 3]
    failure: DecodeFailure | None


@dataclass(frozen=True, eq=False)
class ControlResult:
    """The result of a request for a control: its inputs, or the reason why there are none."""

    request: ControlRequest
    values: np.ndarray | None  # float32 [m, ...]
    failure: DecodeFailure | None


class DecodePool:
    """Decodes the videos at `location` in `workers` processes; with 0 in the calling process, without protection.

    `timeout_s` is the time without progress, such as for decoding one frame, after which a worker is taken to hang;
    `memory_gb` is the address space of one worker. A context manager. Consecutive requests for one video go to the same
    worker, which decodes it in one pass, unless others wait for work: random clips of one long video need all of them.
    `probes`: the folder of the source's ProbeStore.
    """

    def __init__(
        self,
        location: str,
        workers: int,
        probes: Path | None = None,
        timeout_s: float = 120.0,
        memory_gb: float = 4.0,
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers (={workers}) must be 0 or more")
        self.source: VideoSource = open_source(location)
        if probes is not None:
            self.source.probe_store = ProbeStore(probes)
        self.workers = workers
        start = WorkerStart(self.source, probes, timeout_s, memory_within_ours(memory_gb))
        self._workers = [_Worker(start) for _ in range(workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers; unfinished requests are dropped."""
        for worker in self._workers:
            worker.close()

    def submit(self, request: ReadRequest) -> Future[ReadResult]:
        """Requests frames; without workers they are decoded before it returns.

        The future raises DataError if the source itself fails, and DecodeWorkerLost.
        """
        return self._submit(request.video, partial(_ask_to_read, request), partial(self._read_locally, request))

    def read(self, requests: Iterable[ReadRequest], ahead: int) -> Iterator[ReadResult]:
        """Results in the order of `requests`, of which at most `ahead` are in flight. Raises as `submit`'s futures."""
        return self._in_order(map(self.submit, requests), ahead)

    def read_controls(self, requests: Iterable[ControlRequest], ahead: int) -> Iterator[ControlResult]:
        """Control inputs in the order of `requests`, as `read`."""
        futures = (
            self._submit(r.video, partial(_ask_for_control, r), partial(self._read_control_locally, r))
            for r in requests
        )
        return self._in_order(futures, ahead)

    def probe(self, indices: Iterable[int]) -> Iterator[VideoProbe | DecodeFailure]:
        """What the containers of these videos state, in order. Raises as `submit`'s futures."""
        return self._in_order(map(self._probe, indices), 4 * self.workers)

    def _probe(self, video: int) -> Future[VideoProbe | DecodeFailure]:
        known = self.source.known_probe(video)
        if known is None:
            return self._submit(video, partial(_ask_to_probe, video), partial(self._probe_locally, video))
        future: Future[VideoProbe | DecodeFailure] = Future()
        future.set_result(known)
        return future

    def _submit(self, video: int, ask: Callable[[_Worker], T], run_locally: Callable[[], T]) -> Future[T]:
        if self._workers:
            return min(self._workers, key=lambda w: w.backlog - MAX_LEAD * (w.video == video)).submit(video, ask)
        future: Future[T] = Future()
        try:
            future.set_result(run_locally())
        except DataError as error:
            future.set_exception(error)
        return future

    def _in_order(self, futures: Iterator[Future[T]], ahead: int) -> Iterator[T]:
        waiting: deque[Future[T]] = deque()
        for future in futures:
            waiting.append(future)
            if not self._workers or len(waiting) >= max(ahead, 1):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _read_locally(self, request: ReadRequest) -> ReadResult:
        try:
            return ReadResult(request, self.source.read(request.video, request.indices, request.framing), None)
        except DecodeFailure as failure:
            return ReadResult(request, None, failure)

    def _read_control_locally(self, request: ControlRequest) -> ControlResult:
        try:
            return ControlResult(request, read_control_input(self.source, request), None)
        except DecodeFailure as failure:
            return ControlResult(request, None, failure)

    def _probe_locally(self, video: int) -> VideoProbe | DecodeFailure:
        try:
            return self.source.probe(video)
        except DecodeFailure as failure:
            return failure


class _Worker:
    """A process, replaced when it is lost, and the thread that communicates with it."""

    def __init__(self, start: WorkerStart) -> None:
        self._start = start
        self._thread = ThreadPoolExecutor(1, "decode")
        self._process: WorkerProcess | None = None
        self._closed = False
        self._pending: list[Future[Any]] = []
        self.video: int | None = None  # of the last request

    @property
    def backlog(self) -> int:
        self._pending = [future for future in self._pending if not future.done()]
        return len(self._pending)

    def submit(self, video: int, ask: Callable[[_Worker], T]) -> Future[T]:
        self.video = video
        future = self._thread.submit(ask, self)
        self._pending.append(future)
        return future

    def close(self) -> None:
        self._closed = True
        if self._process is not None:
            self._process.kill()  # ends the thread's wait for an answer
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._stop()

    def ask(self, question: dict[str, Any]) -> tuple[dict[str, Any], bytearray]:
        """The answer to a question about a video. Raises DataError, and DecodeWorkerLost after MAX_ATTEMPTS."""
        problem = "was closed"
        for _ in range(MAX_ATTEMPTS):
            if self._closed:
                break
            try:
                self._process = self._process or WorkerProcess(self._start)
                return self._process.ask(question)
            except WorkerLost as lost:
                problem = str(lost)
                self._stop()
        name = self._start.source.entries[question["video"]].id
        raise DecodeWorkerLost(
            f"{name}: each of {MAX_ATTEMPTS} decode workers that read it {problem} "
            f"(limits: {self._start.timeout_s:g} s per frame, {self._start.memory_gb:.3g} GiB). "
            "Try again, or exclude this video"
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


def _ask_for_control(request: ControlRequest, worker: _Worker) -> ControlResult:
    question = {
        "kind": "control",
        "video": request.video,
        "source": to_mapping(request.source),
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
    header.pop("kind")
    return VideoProbe(np.frombuffer(payload, np.float64), **header)
