"""How a request's sampling options become the configuration of the sampler."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from tokenreel.pipelines.requests.generation import GenerateRequest, SampleRequest
from tokenreel.priors.sampling.logits import SamplingConfig, StreamSampling


@dataclass(frozen=True)
class GenerationConfig:
    """How many samples to generate, how long, and how."""

    num: int  # samples
    given_frames: int
    frames: int | None = None  # of each sample, given ones included; None: the clip that the prior was trained on
    seed: int = 0
    batch: int = 16  # samples generated at once; their tokens do not depend on it
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def generation_config(options: SampleRequest | GenerateRequest) -> GenerationConfig:
    stream = StreamSampling(options.temperature, options.top_k, options.top_p, options.greedy)
    sampling = SamplingConfig(
        **dataclasses.asdict(stream),
        speculate=options.speculate,
        guidance=options.guidance,
        window_stride=options.window_stride,
        streams={name: dataclasses.replace(stream, top_k=top_k) for name, top_k in options.top_k_of.items()},
    )
    return GenerationConfig(options.num, options.given_frames, options.frames, options.seed, options.batch, sampling)
