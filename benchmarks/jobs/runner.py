"""Runs small jobs through the command line, each in a folder of its own, and keeps what they produced."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenreel.benchmarks.jobs.results import RECORDS, Entries
from tokenreel.pipelines.cli.program import run_command

# Command lines by kind of job. An argument that begins with @ stands for a path or a name of the job.
CLIPS = "--set data.frames=8 --set data.framing.height=32 --set data.framing.width=32"
TRAINING = f"--preset @preset {CLIPS} --set training.log_every=1 --steps 4 --device cpu --out @out"
COMMAND_LINES = {
    "preset": "presets show @preset",
    "videos": "tabletop @out --videos 12 --frames 16 --size 32 --seed 1",
    "controls": f"fit-controls --preset @preset {CLIPS} --data @videos --out @out",
    "tokenizer": f"train-tokenizer {TRAINING} --data @videos --seed 2 --workers 0",
    "tokens": "tokenize-dataset --tokenizer @tokenizer --data @videos --out @out --allow-collapsed --device cpu",
    "prior": f"train-prior {TRAINING} --set training.prior.warmup=0 --cache @tokens --seed 3",
    "sample": "sample --cache @tokens --num 3 --batch 2 --seed 4 --out @out --device cpu",
    "decode": "decode --tokens @tokens --tokenizer @tokenizer --format npy --batch 5 --out @out --device cpu",
    "reconstruct": "reconstruct --tokenizer @tokenizer --data @videos --num 2 --out @out --device cpu",
    "generate": "generate --tokenizer @tokenizer --num 2 --seed 5 --format npy --out @out --device cpu",
}
GIVEN, PRIOR = "--given-frames @given", "--prior @prior"


@dataclass
class JobRunner:
    """Runs jobs, each in the folder of its name below `work`, and keeps what they produced."""

    work: Path
    entries: Entries = field(default_factory=dict)  # by <system>/<job>/<what>

    def run(self, job: str, kind: str, options: str = "", **values: object) -> Path:
        """Runs the command line of that kind with these options and records its results. Returns the job's folder.

        `values` are what arguments that begin with @ stand for.
        """
        out = self.work / job
        out.parent.mkdir(parents=True, exist_ok=True)
        summary = tokenreel(self.arguments(job, kind, options, **values))
        self.record(job, RECORDS[kind](out, summary))
        return out

    def arguments(self, job: str, kind: str, options: str = "", **values: object) -> list[str]:
        """The arguments with which `run` calls the command line."""
        values |= {"out": self.work / job, "videos": self.work / "videos"}
        arguments = shlex.split(f"{COMMAND_LINES[kind]} {options}")
        return [str(values[argument[1:]]) if argument.startswith("@") else argument for argument in arguments]

    def record(self, job: str, entries: Mapping[str, Any]) -> None:
        self.entries |= {f"{job}/{what}": value for what, value in entries.items()}

    @property
    def video(self) -> Path:
        """The first of the videos."""
        return next((self.work / "videos").glob("*/000000.mp4"))


def tokenreel(arguments: list[str]) -> dict[str, Any]:
    """Runs a command line in this process. Returns its summary; exits if the command fails."""
    output = io.StringIO()
    with redirect_stdout(output):
        code = run_command([*arguments, "--json", "--quiet", "--debug"])
    if code:
        sys.exit(f"exit code {code}: tokenreel {shlex.join(arguments)}\n{output.getvalue()}")
    return json.loads(output.getvalue())
