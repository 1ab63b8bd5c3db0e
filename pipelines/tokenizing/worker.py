"""A worker process of `tokenize-dataset`: reads a job and its shards as one line of JSON, writes a line for each shard.

The worker exits when its standard input ends, that is, when its parent has ended. Nothing is lost: a shard is either
committed or not.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from typing import TextIO

from tokenreel.config import from_mapping
from tokenreel.errors import UserError
from tokenreel.pipelines.tokenizing.job import REGISTRIES, TokenizeJob, tokenize_shards
from tokenreel.registry import register_again


def main() -> int:
    """Returns the exit code. A UserError is written as a line with `error`."""
    messages = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps what a library prints out of the messages
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_parent, args=(sys.stdin,), daemon=True).start()
    try:
        register_again(REGISTRIES, request["registered"])
        for filled in tokenize_shards(from_mapping(TokenizeJob, request["job"], "job"), request["shards"]):
            _send(messages, dataclasses.asdict(filled))
    except UserError as error:
        _send(messages, {"error": str(error)})
        return 1
    return 0


def _send(messages: TextIO, message: dict[str, object]) -> None:
    messages.write(json.dumps(message) + "\n")
    messages.flush()


def _exit_with_parent(stream: TextIO) -> None:
    stream.read()
    os._exit(1)  # at once, as the main thread may be busy in the encoder


if __name__ == "__main__":
    sys.exit(main())
