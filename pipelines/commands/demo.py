"""`tokenreel demo`: the full pipeline, from video files to sampled videos and a report, each stage by its own command.

By default it makes its own videos (Tabletop), so that nothing has to be downloaded.
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
from tokenreel.pipelines.requests.decoding import DecodeRequest
from tokenreel.pipelines.requests.generation import SampleRequest
from tokenreel.pipelines.requests.program import DemoRequest, TabletopRequest
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.requests.training import TrainPriorRequest, TrainTokenizerRequest
from tokenreel.priors.base import levels_of

VIDEOS, FRAMES, SIZE = 480, 32, 64  # of Tabletop
WORKERS = 2  # processes that tokenize
GIVEN = 1  # frames
TOP_K = 5  # after so short a training the tail of the distribution is mostly error
CLIPS, SAMPLES = 3, 3  # held-out clips that are continued, and samples of each


def run(request: DemoRequest) -> dict[str, Any]:
    """Runs every stage into a folder below `out`, writes `out/report.html` and returns its scores.

    Raises what the stages raise, and UserError where `out` is not empty.
    """
    sections = resolve(request.preset, None, (), {}, "prior")
    if levels_of(require_section(sections, "prior")) != [None]:
        raise ConfigError(f"--preset {request.preset} has one prior per level, but the demo trains one: use another")
    out = fresh_folder(request.out)
    try:
        with cpu_threads(1):  # models as small as these lose more by a second thread than they gain
            return _run(request, out)
    except KeyboardInterrupt as error:  # the stage that stopped says that it can be resumed
        raise KeyboardInterrupt(f"stopped; a demo does not resume: remove {out} or give another --out") from error


def _run(request: DemoRequest, out: Path) -> dict[str, Any]:
    stages, started = Stages(), time.perf_counter()
    seed, preset, videos = request.seed, request.preset, out / "videos"
    tokenizer, cache, prior, samples = out / "tokenizer", out / "tokens.zarr", out / "prior", out / "samples.zarr"
    source = str(videos) if request.data is None else request.data
    if request.data is None:
        made = TabletopRequest(directory=videos, videos=VIDEOS, frames=FRAMES, size=SIZE, seed=seed)
        stages.run("videos", "tabletop", tabletop.run, made)
    stages.run(
        "tokenizer",
        "train-tokenizer",
        train_tokenizer.run,
        TrainTokenizerRequest(data=source, out=tokenizer, preset=preset, seed=seed),
    )
    stages.run(
        "tokens",
        "tokenize-dataset",
        tokenize_dataset.run,
        TokenizeRequest(tokenizer=str(tokenizer), data=source, out=cache, workers=WORKERS),
    )
    training = TrainPriorRequest(cache=cache, out=prior, preset=preset, seed=seed)
    stages.run("prior", "train-prior", train_prior.run, training)
    sampling = SampleRequest(
        prior=(str(prior),),
        cache=cache,
        out=samples,
        num=CLIPS * SAMPLES,
        num_clips=CLIPS,
        given_frames=GIVEN,
        seed=seed,
        top_k=TOP_K,
    )
    stages.run("samples", "sample", sample.run, sampling)
    decoding = DecodeRequest(tokens=samples, tokenizer=str(tokenizer), out=out / "decoded")
    stages.run("decoded", "decode", decode.run, decoding)
    bound = choice_bits_per_code(TokenCache.open(cache), videos, GIVEN) if request.data is None else None
    scores = write_demo_report(out, source, stages, SampleSettings(GIVEN, CLIPS, TOP_K), bound)
    return {"out": str(out), "seconds": round(time.perf_counter() - started, 1), **scores}
