"""tokenreel: video -> discrete tokens -> a prior over them -> video.

The public names are imported on first use, so that `import tokenreel` does not import torch. `run(request)` executes a
command; there is a request class for each.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_folder = Path(__file__).parent
if (_folder / "data").is_file():  # git writes a link as a file where links are off, as on Windows: a checkout's root
    __path__.append(str(_folder.parents[1]))  # has what the links stand for

__all__ = [
    "GENERATORS",
    "PRIORS",
    "QUANTIZERS",
    "SOURCES",
    "TOKENIZERS",
    "Adversary",
    "Conditions",
    "Controls",
    "DecodeRequest",
    "DemoRequest",
    "EvaluateRequest",
    "ExportRequest",
    "FitControlsRequest",
    "GenerateRequest",
    "GeneratorSpec",
    "InspectRequest",
    "Prior",
    "PullRequest",
    "PushRequest",
    "ReconstructRequest",
    "RepairRequest",
    "SampleRequest",
    "Samples",
    "SamplingConfig",
    "TabletopRequest",
    "TokenCache",
    "TokenSpec",
    "TokenizeRequest",
    "TrainGeneratorRequest",
    "TrainPriorRequest",
    "TrainTokenizerRequest",
    "VerifyRequest",
    "VideoGenerator",
    "VideoTokenizer",
    "__version__",
    "read_video",
    "run",
    "sample",
    "sample_noise",
    "sample_video",
    "to_frames",
    "to_model",
    "write_video",
]

# Each public name twice: for type checkers, and by module for `__getattr__`.
if TYPE_CHECKING:
    from tokenreel.data.cache.reader import TokenCache
    from tokenreel.data.generator_spec import GeneratorSpec
    from tokenreel.data.pixels import to_frames, to_model
    from tokenreel.data.sources.open import SOURCES
    from tokenreel.data.spec import TokenSpec
    from tokenreel.data.video.reader import read_video
    from tokenreel.data.video.writer import write_video
    from tokenreel.decoders.generators.base import GENERATORS, Adversary, VideoGenerator
    from tokenreel.decoders.generators.conditions import Conditions
    from tokenreel.decoders.generators.noise import sample_noise
    from tokenreel.pipelines.requests.artifacts import InspectRequest, PullRequest, PushRequest, VerifyRequest
    from tokenreel.pipelines.requests.decoding import DecodeRequest, ReconstructRequest
    from tokenreel.pipelines.requests.generation import GenerateRequest, SampleRequest
    from tokenreel.pipelines.requests.program import DemoRequest, TabletopRequest
    from tokenreel.pipelines.requests.tokenizing import ExportRequest, RepairRequest, TokenizeRequest
    from tokenreel.pipelines.requests.training import (
        EvaluateRequest,
        FitControlsRequest,
        TrainGeneratorRequest,
        TrainPriorRequest,
        TrainTokenizerRequest,
    )
    from tokenreel.pipelines.run import run
    from tokenreel.priors.base import PRIORS, Prior
    from tokenreel.priors.sampling.logits import SamplingConfig
    from tokenreel.priors.sampling.video import Samples, sample, sample_video
    from tokenreel.tokenizers.base import TOKENIZERS, VideoTokenizer
    from tokenreel.tokenizers.controls.controls import Controls
    from tokenreel.tokenizers.quantizers.base import QUANTIZERS
else:
    _MODULES = {
        "GENERATORS": "tokenreel.decoders.generators.base",
        "PRIORS": "tokenreel.priors.base",
        "QUANTIZERS": "tokenreel.tokenizers.quantizers.base",
        "SOURCES": "tokenreel.data.sources.open",
        "TOKENIZERS": "tokenreel.tokenizers.base",
        "Adversary": "tokenreel.decoders.generators.base",
        "Conditions": "tokenreel.decoders.generators.conditions",
        "Controls": "tokenreel.tokenizers.controls.controls",
        "DecodeRequest": "tokenreel.pipelines.requests.decoding",
        "DemoRequest": "tokenreel.pipelines.requests.program",
        "EvaluateRequest": "tokenreel.pipelines.requests.training",
        "ExportRequest": "tokenreel.pipelines.requests.tokenizing",
        "FitControlsRequest": "tokenreel.pipelines.requests.training",
        "GenerateRequest": "tokenreel.pipelines.requests.generation",
        "GeneratorSpec": "tokenreel.data.generator_spec",
        "InspectRequest": "tokenreel.pipelines.requests.artifacts",
        "Prior": "tokenreel.priors.base",
        "PullRequest": "tokenreel.pipelines.requests.artifacts",
        "PushRequest": "tokenreel.pipelines.requests.artifacts",
        "ReconstructRequest": "tokenreel.pipelines.requests.decoding",
        "RepairRequest": "tokenreel.pipelines.requests.tokenizing",
        "SampleRequest": "tokenreel.pipelines.requests.generation",
        "Samples": "tokenreel.priors.sampling.video",
        "SamplingConfig": "tokenreel.priors.sampling.logits",
        "TabletopRequest": "tokenreel.pipelines.requests.program",
        "TokenCache": "tokenreel.data.cache.reader",
        "TokenSpec": "tokenreel.data.spec",
        "TokenizeRequest": "tokenreel.pipelines.requests.tokenizing",
        "TrainGeneratorRequest": "tokenreel.pipelines.requests.training",
        "TrainPriorRequest": "tokenreel.pipelines.requests.training",
        "TrainTokenizerRequest": "tokenreel.pipelines.requests.training",
        "VerifyRequest": "tokenreel.pipelines.requests.artifacts",
        "VideoGenerator": "tokenreel.decoders.generators.base",
        "VideoTokenizer": "tokenreel.tokenizers.base",
        "read_video": "tokenreel.data.video.reader",
        "run": "tokenreel.pipelines.run",
        "sample": "tokenreel.priors.sampling.video",
        "sample_noise": "tokenreel.decoders.generators.noise",
        "sample_video": "tokenreel.priors.sampling.video",
        "to_frames": "tokenreel.data.pixels",
        "to_model": "tokenreel.data.pixels",
        "write_video": "tokenreel.data.video.writer",
    }

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module 'tokenreel' has no attribute {name!r}")
        return getattr(importlib.import_module(_MODULES[name]), name)

    def __dir__():
        return sorted(__all__)
