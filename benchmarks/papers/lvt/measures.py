"""Measures for LVT's tables without training: the baseline that repeats the last frame, and sampling time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tokenreel.benchmarks.papers.lvt.setup import FRAMES, PIXELS
from tokenreel.benchmarks.speed.gpt_setup import interleaved
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.spec import Framing
from tokenreel.metrics.reconstruction import ReconstructionScores
from tokenreel.pipelines.common.device import cpu_threads
from tokenreel.pipelines.common.plans import plan_of
from tokenreel.pipelines.decoding.reconstruction import mean_image_of, read_clips
from tokenreel.pipelines.generation.given_tokens import given_tokens
from tokenreel.priors.base import Prior
from tokenreel.priors.sampling.video import Samples, sample_video


def repeated_frame(data: str, given: Sequence[int]) -> dict[int, dict[str, float]]:
    """Scores by number of given frames, if every other frame of held-out clips repeats the last given one."""
    with DecodePool(data, workers=0) as pool:
        config = DataConfig(Framing(PIXELS, PIXELS), FRAMES)
        plan = plan_of(pool, config)
        mean = mean_image_of(plan, pool)
        scores = {count: ReconstructionScores(mean) for count in given}
        for _, clip in read_clips(plan, pool, plan.rows("validation")):
            for count, score in scores.items():
                score.update(clip[count:], np.repeat(clip[count - 1 : count], FRAMES - count, axis=0))
    return {count: score.compute() for count, score in scores.items()}


def sampling_seconds(priors: dict[str, Path], cache: Path, given_frames: int) -> dict[str, float]:
    """Processor time of sampling one video on one thread, by name of the prior; each is timed once, in turn."""
    tokens = TokenCache.open(cache)
    codes = tokens.read(tokens.rows("validation")[:1])

    def sampler(folder: Path) -> Callable[[], Samples]:
        prior = Prior.from_pretrained(str(folder)).eval()
        given = given_tokens([prior], codes, given_frames)
        return lambda: sample_video(prior, given, FRAMES)

    calls = {name: sampler(folder) for name, folder in priors.items()}
    with cpu_threads(1):
        return {name: seconds for name, (seconds,) in interleaved(calls, rounds=1).items()}
