"""`metrics.jsonl`: one JSON object a line with a `step`; written whatever other trackers there are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenreel.errors import UserError


class MetricsLog:
    """Appends to a file whose lines beyond `step` are dropped first: what an interrupted run wrote after its checkpoint
    is written again by the run that goes on from there.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        staged = path.with_name(f".{path.name}")
        with self._writing():
            staged.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
            staged.replace(path)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Raises UserError where the disk is full or the folder read-only."""
        with self._writing(), self.path.open("a") as file:
            file.write(f"{json.dumps({'step': step, **values})}\n")
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written: {error.strerror}. Checkpoints are whole; make room and start the same "
                "command again"
            ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a killed process may leave half of one at the end. An absent file has none."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
