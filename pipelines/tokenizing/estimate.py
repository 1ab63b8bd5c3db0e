"""What tokenizing a data set will take, measured: a worker of its own tokenizes some clips of it for a few seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from tokenreel.config import from_mapping
from tokenreel.data.cache.fill import FilledShard
from tokenreel.data.cache.layout import CacheHeader
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.data.order import evenly_spaced
from tokenreel.data.plan import BY_REQUEST, Plan, PlannedVideo
from tokenreel.errors import DataError
from tokenreel.pipelines.common.device import usable_cores
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.tokenizing.job import TokenizeJob
from tokenreel.pipelines.tokenizing.processes import Message, end_worker, listen, require_success, start_worker

TRIAL_S = 10.0  # seconds of tokenizing after which no further shard is waited for
BATCHES = 32  # of the trial, at most
BATCHES_IN_SHARD = 2
VIDEOS = 8  # that the trial's clips are of, at most
SAMPLE_S = 0.02  # seconds between two looks at the worker's memory


@dataclass(frozen=True)
class Trial:
    """What one worker took, its decoder included."""

    rows: int
    seconds: float  # while it tokenized them
    encode_seconds: float  # of these
    cpu_seconds: float  # likewise, of all its processes
    import_seconds: float  # from its start to the start of its decoder: libraries, tokenizer, plan
    startup_seconds: float  # from its start on, what it took besides its clips: also its decoder and the first batch
    startup_cpu_seconds: float
    memory_bytes: int  # resident, at the peak


@dataclass(frozen=True)
class Machine:
    cores: int  # that this process may use
    encodes_on_cores: bool  # or on a device that all workers share


def estimate(
    job: TokenizeJob, header: CacheHeader, plan: Plan, request: TokenizeRequest, planning: float, loading: float
) -> dict[str, Any]:
    """The summary of `--dry-run`, for the shards of this call. `planning`: seconds that the plan took; `loading`: of
    these, the tokenizer. Only a temporary folder is written.

    `seconds` are those of the whole command, with its imports. Sealing is not counted: it hashes the files once, some
    kilobytes for each clip.

    Raises DataError where the clips that are tried cannot be tokenized.
    """
    shards = range(request.shard_index, header.shards, request.num_shards)
    rows = sum(len(header.columns["valid"].rows_of(shard)) for shard in shards)
    workers = max(1, min(request.workers, len(shards)))
    trial = try_tokenizing(job, header, plan)
    machine = Machine(usable_cores(), torch.device(job.device).type == "cpu")
    work = work_seconds(trial, rows, workers, machine)
    start = startup_seconds(trial, workers, machine)
    if workers > 1:  # else the one worker is the command itself
        start += max(0.0, trial.import_seconds - loading)
    tokens_per_row = sum(layout.row_bytes // layout.dtype.itemsize for layout in header.streams.values())
    seconds = planning + start + work
    return {
        "dry_run": True,
        "rows": rows,
        "tokens": rows * tokens_per_row,
        "shards": len(shards),
        "clips_tried": trial.rows,
        "clips_per_second": round(rows / work, 1) if work else None,
        "seconds": round(seconds, 1),
        "hours": round(seconds / 3600, 3),
        "disk_gb": round(sum(map(header.bytes_of, shards)) / 1e9, 6),
        "memory_gb_per_worker": round(trial.memory_bytes / 1e9, 2),
    }


def work_seconds(trial: Trial, rows: int, workers: int, machine: Machine) -> float:
    """Seconds in which `workers` tokenize `rows`: as fast as workers, cores and the shared device allow."""
    limits = [trial.seconds / workers, trial.cpu_seconds / machine.cores]
    if not machine.encodes_on_cores:
        limits.append(trial.encode_seconds)
    return rows / trial.rows * max(limits)


def startup_seconds(trial: Trial, workers: int, machine: Machine) -> float:
    """Seconds until all workers, which start together, tokenize."""
    return max(trial.startup_seconds, workers * trial.startup_cpu_seconds / machine.cores)


def try_tokenizing(job: TokenizeJob, header: CacheHeader, plan: Plan) -> Trial:
    """Tokenizes clips spread over the plan in a worker process for TRIAL_S, one shard at least."""
    batch = header.provenance["batch"]
    part = _spread(plan, BATCHES * batch)
    shard_rows = min(header.shard_rows, BATCHES_IN_SHARD * batch, 1 << (len(part).bit_length() - 1))
    trial_header = dataclasses.replace(header, rows=len(part), shard_rows=shard_rows, plan_sha256=part.sha256)
    with tempfile.TemporaryDirectory(prefix="tokenreel-dry-run-") as folder:
        cache = Path(folder) / "cache"
        CacheWriter.create(cache, trial_header, part.to_json(), {})
        return _run(dataclasses.replace(job, cache=str(cache)), trial_header.shards)


def _spread(plan: Plan, rows: int) -> Plan:
    """A plan of about `rows` consecutive clips of up to VIDEOS videos, which are spread over the rows of `plan`."""
    videos = np.unique(plan.video[evenly_spaced(plan.rows(), VIDEOS)])
    stride, clips = plan.config.clip_stride or plan.config.frames, -(-rows // len(videos))
    ticks = (clips - 1) * stride + plan.config.frames
    kept = {int(index): plan.videos[index] for index in videos}
    return dataclasses.replace(
        plan,
        videos=tuple(
            dataclasses.replace(kept[index], source_frames=kept[index].source_frames[:ticks])
            if index in kept
            else PlannedVideo(video.id, reason=BY_REQUEST)
            for index, video in enumerate(plan.videos)
        ),
    )


def _run(job: TokenizeJob, shards: int) -> Trial:
    """Runs the worker while its memory is looked at, and ends it."""
    started = time.perf_counter()
    process = start_worker(job, range(shards))
    try:
        watched = _Watched(process.pid)
        messages: queue.Queue[tuple[int, Message]] = queue.Queue()
        threading.Thread(target=listen, args=(0, process, messages), daemon=True).start()
        filled, first_cpu, first = list[FilledShard](), 0.0, 0.0
        while len(filled) < shards and (not filled or time.perf_counter() - started - first < TRIAL_S):
            with contextlib.suppress(queue.Empty):
                _, message = messages.get(timeout=SAMPLE_S)
                if message is None:
                    require_success(0, process)
                    break
                if "error" in message:
                    raise DataError(message["error"])
                filled.append(from_mapping(FilledShard, message, "message"))
            watched.look()
            if len(filled) == 1 and not first:
                first, first_cpu = time.perf_counter() - started, watched.cpu_seconds
        return _trial(filled, first, first_cpu, watched)
    finally:
        _end_with_decoders(process)


def _trial(filled: Sequence[FilledShard], first: float, first_cpu: float, watched: _Watched) -> Trial:
    """`first`: seconds from the start of the worker to the end of its first shard, which waits for the start of the
    decoder and warms up the model; `first_cpu`: of its processes in that time.
    """
    measured = filled[1:] or filled
    rows, seconds = sum(shard.rows for shard in measured), sum(shard.seconds for shard in measured)
    own = filled[0].rows / rows  # the first shard's clips alone would have taken that fraction
    cpu = watched.cpu_seconds - first_cpu if len(filled) > 1 else min(first_cpu, seconds)
    return Trial(
        rows=rows,
        seconds=seconds,
        encode_seconds=sum(shard.encode for shard in measured),
        cpu_seconds=cpu,
        import_seconds=max(0.0, first - filled[0].seconds),
        startup_seconds=max(0.0, first - own * seconds),
        startup_cpu_seconds=max(0.0, first_cpu - own * cpu),
        memory_bytes=watched.memory_bytes,
    )


def _end_with_decoders(process: subprocess.Popen[str]) -> None:
    """Ends the worker and its children, which else may write beside the trial's cache when it is already removed."""
    children = list[psutil.Process]()
    with contextlib.suppress(psutil.NoSuchProcess):  # the worker has ended
        children = psutil.Process(process.pid).children(recursive=True)
    end_worker(process)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children)


class _Watched:
    """A process and its children: their resident memory at the peak, and the processor time that they have used."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.memory_bytes, self.cpu_seconds = 0, 0.0

    def look(self) -> None:
        memory, cpu = 0, 0.0
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends while it is looked at
            for process in (self._process, *self._process.children(recursive=True)):
                memory += process.memory_info().rss
                times = process.cpu_times()
                cpu += times.user + times.system
        self.memory_bytes, self.cpu_seconds = max(self.memory_bytes, memory), max(self.cpu_seconds, cpu)
