"""A worker process of `tokenize-dataset`: one line of JSON comes in, a job and its shards; a line a shard goes out.

Standard input stays open as long as the parent lives; when it ends, so does the worker. That loses nothing: a shard is
either committed or not.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from typing import TextIO

from tokenreel.config import from_mapping
from tokenreel.data.sources.open import SOURCES
from tokenreel.errors import UserError
from tokenreel.pipelines.tokenizing.job import TokenizeJob, fill_shards


def main() -> int:
    """Returns the exit code; what a user can put right goes out as a line with `error`."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_parent, args=(sys.stdin,), daemon=True).start()
    try:
        SOURCES.take_message(order["sources"])
        for filled in fill_shards(from_mapping(TokenizeJob, order["job"], "job"), order["shards"]):
            _say(dataclasses.asdict(filled))
    except UserError as error:
        _say({"error": str(error)})
        return 1
    return 0


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _exit_with_parent(stream: TextIO) -> None:
    stream.read()
    os._exit(1)  # the main thread may be deep in an encoder; nothing needs unwinding


if __name__ == "__main__":
    sys.exit(main())
