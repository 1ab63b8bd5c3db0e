"""The model of the best validation so far, a saved model in a folder of its own beside the run's last one.

It is replaced by two renames; what a kill leaves between them is put right by `recover`.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tokenreel.data.cache.files import flush
from tokenreel.errors import UserError
from tokenreel.hub import CONFIG_FILE
from tokenreel.pipelines.training.objective import HELD_OUT

NEW, OLD = ".best-new", ".best-old"


class Best(NamedTuple):
    """Which model is saved."""

    step: int
    scores: Mapping[str, float]


def read_best(folder: Path) -> Best | None:
    """What the best model in `folder` is; None where there is none, or it is damaged."""
    try:
        about = json.loads((folder / CONFIG_FILE).read_text())["about"]
        return Best(int(about["steps"]), dict(about["scores"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@dataclass(frozen=True)
class BestModel:
    """What is saved in `folder`. `score` names the validation score that decides; None: no model is kept."""

    folder: Path
    score: str | None
    highest: bool

    def is_beaten_by(self, scores: Mapping[str, float]) -> bool:
        """Whether `scores` are better, or of other held-out clips than those of the saved model."""
        if self.score is None or not math.isfinite(scores.get(self.score, math.nan)):
            return False
        saved = read_best(self.folder)
        if saved is None or any(saved.scores.get(name) != scores.get(name) for name in HELD_OUT):
            return True
        before, now = saved.scores.get(self.score), scores[self.score]
        if not isinstance(before, float):  # the file is damaged
            return True
        return now > before if self.highest else now < before

    def replace(self, export: Callable[[Path], None]) -> None:
        """Saves what `export` writes into a folder. Raises UserError if it cannot be written."""
        new, old = (self.folder.with_name(name) for name in (NEW, OLD))
        try:
            new.mkdir()
            export(new)
            for path in new.iterdir():
                flush(path)
            if self.folder.exists():
                self.folder.rename(old)
            new.rename(self.folder)
            flush(self.folder.parent)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written: {error.strerror}. Checkpoints are intact: free disk space and run "
                "the same command again"
            ) from error

    def summary(self) -> dict[str, Any]:
        saved = read_best(self.folder)
        if self.score is None or saved is None:
            return {}
        return {"best": {"path": str(self.folder), "step": saved.step, self.score: saved.scores.get(self.score)}}


def recover(folder: Path) -> None:
    """Finishes or undoes what a killed writer of the best model in `folder` has begun."""
    old = folder.with_name(OLD)
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in (folder.with_name(NEW), old):
        if leftover.exists():
            shutil.rmtree(leftover)
