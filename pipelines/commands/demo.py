"""`tokenreel demo`: the whole way, from video files to sampled videos and a report, each stage by its own command.

Without `data` it draws its own videos (Tabletop), so nothing has to be downloaded.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tokenreel.data.cache.reader import TokenCache
from tokenreel.errors import ConfigError
from tokenreel.pipelines.commands import decode, sample, tabletop, tokenize_dataset, train_prior, train_tokenizer
from tokenreel.pipelines.common.device import cpu_threads
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.common.settings import require_section, resolve
from tokenreel.pipelines.report.choice_bound import choice_bits_per_code
from tokenreel.pipelines.report.demo_report import SampleSettings, Stages, write_demo_report
from tokenreel.priors.base import levels_of

VIDEOS, FRAMES, SIZE = 480, 32, 64  # of Tabletop
WORKERS = 2  # processes that tokenize
GIVEN = 1  # frames
TOP_K = 5  # codes to draw among: after so short a training the tail of the distribution is mostly error
DRAFT = 8  # codes tried at once; changes the speed alone
STARTS, DRAWS = 3, 3  # held-out clips that are gone on with, and samples of each


def run(out: Path, seed: int = 0, data: str | None = None, preset: str = "gpt-tabletop-tiny") -> dict[str, Any]:
    """Runs every stage into a folder below `out`, writes `out/report.html` and returns its scores.

    `data`: videos of your own, as train-tokenizer takes them; None draws Tabletop videos first. Raises what the stages
    raise, UserError where `out` holds something already.
    """
    if levels_of(require_section(resolve(preset, None, (), {}, "prior"), "prior")) != [None]:
        raise ConfigError(f"--preset {preset} has a prior for each level; the demo trains one: use another preset")
    with cpu_threads(1):  # models as small as these lose more by a second thread than they gain
        return _run(fresh_folder(out), seed, data, preset)


def _run(out: Path, seed: int, data: str | None, preset: str) -> dict[str, Any]:
    stages, started = Stages(), time.perf_counter()
    source = data if data is not None else str(out / "videos")
    if data is None:
        stages.run("videos", tabletop.run, directory=out / "videos", videos=VIDEOS, frames=FRAMES, size=SIZE, seed=seed)
    training = {"preset": preset, "seed": seed}
    stages.run("tokenizer", train_tokenizer.run, data=source, out=out / "tokenizer", **training)
    tokenizer, cache = str(out / "tokenizer"), out / "tokens.zarr"
    stages.run("tokens", tokenize_dataset.run, tokenizer=tokenizer, data=source, out=cache, workers=WORKERS)
    stages.run("prior", train_prior.run, cache=cache, out=out / "prior", **training)
    drawing = {"num": STARTS * DRAWS, "clips": STARTS, "prime": GIVEN, "frames": None, "seed": seed}
    choice = {"top_k": TOP_K, "draft": DRAFT}
    samples = out / "samples.zarr"
    stages.run("samples", sample.run, prior=[str(out / "prior")], cache=cache, out=samples, **drawing, **choice)
    stages.run("decoded", decode.run, tokens=samples, tokenizer=tokenizer, out=out / "decoded")
    bound = choice_bits_per_code(TokenCache.open(cache), out / "videos", GIVEN) if data is None else None
    scores = write_demo_report(out, source, stages, SampleSettings(GIVEN, STARTS, TOP_K), bound)
    return {"out": str(out), "seconds": round(time.perf_counter() - started, 1), **scores}
