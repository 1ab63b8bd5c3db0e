"""Worker processes that tokenize shards in parallel. The tokens do not depend on their number."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from tokenreel.config import from_mapping, to_mapping
from tokenreel.data.cache.fill import FilledShard
from tokenreel.errors import DataError, shown
from tokenreel.pipelines.tokenizing.job import REGISTRIES, TokenizeJob, tokenize_shards
from tokenreel.registry import registrations

Message = dict[str, Any] | None  # a line of a worker's output; None: end of output
# Ctrl-C is for this process, which then ends the workers.
_OWN_GROUP: dict[str, Any]
if sys.platform == "win32":
    _OWN_GROUP = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
else:
    _OWN_GROUP = {"process_group": 0}


def fill_shards(job: TokenizeJob, shards: Sequence[int], workers: int) -> Iterator[FilledShard]:
    """Fills `shards` in `workers` processes, or in this process if one suffices; yields the statistics of each shard.

    Raises DataError if a worker fails or is killed; then the others are stopped, and committed shards are kept.
    """
    if min(workers, len(shards)) <= 1:
        yield from tokenize_shards(job, shards) if shards else ()
        return
    processes = [start_worker(job, shards[worker::workers]) for worker in range(min(workers, len(shards)))]
    messages: queue.Queue[tuple[int, Message]] = queue.Queue()
    for number, process in enumerate(processes):
        threading.Thread(target=listen, args=(number, process, messages), daemon=True).start()
    try:
        running = len(processes)
        while running:
            number, message = messages.get()
            if message is None:
                running -= 1
                require_success(number, processes[number])
            elif "error" in message:
                raise DataError(message["error"])
            else:
                yield from_mapping(FilledShard, message, "message")
    finally:
        for process in processes:
            end_worker(process)


def start_worker(job: TokenizeJob, shards: Sequence[int]) -> subprocess.Popen[str]:
    """A process that fills `shards` of the job's cache and writes a line for each; `end_worker` ends it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tokenreel.pipelines.tokenizing.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        **_OWN_GROUP,
    )
    assert process.stdin is not None
    order = {"job": to_mapping(job), "shards": list(shards), "registered": registrations(REGISTRIES)}
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()  # and left open: its end tells the worker that we are gone
    return process


def end_worker(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


def listen(number: int, process: subprocess.Popen[str], messages: queue.Queue[tuple[int, Message]]) -> None:
    """Puts each line of the worker's output, and None at its end, into the queue."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):  # printed by something that the worker imports first
            message = {"error": f"worker {number} wrote {shown(line)} instead of a message"}
        messages.put((number, message))
    messages.put((number, None))


def require_success(number: int, process: subprocess.Popen[str]) -> None:
    code = process.wait()
    if code:
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}, see its message above"
        raise DataError(f"worker {number} {how}; committed shards are kept: run the same command again to continue")
