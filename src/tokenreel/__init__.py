"""tokenreel: video -> discrete tokens -> a prior over them -> video.

The public names are imported when first used, so that `import tokenreel` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "PRIORS",
    "TOKENIZERS",
    "Controls",
    "Prior",
    "Samples",
    "SamplingConfig",
    "TokenCache",
    "TokenSpec",
    "VideoTokenizer",
    "__version__",
    "read_video",
    "sample",
    "sample_video",
    "to_frames",
    "to_model",
]

# Each public name twice: for type checkers, and by module for `__getattr__`.
if TYPE_CHECKING:
    from tokenreel.data.cache.reader import TokenCache
    from tokenreel.data.pixels import to_frames, to_model
    from tokenreel.data.spec import TokenSpec
    from tokenreel.data.video.reader import read_video
    from tokenreel.priors.base import PRIORS, Prior
    from tokenreel.priors.sampling.logits import SamplingConfig
    from tokenreel.priors.sampling.video import Samples, sample, sample_video
    from tokenreel.tokenizers.base import TOKENIZERS, VideoTokenizer
    from tokenreel.tokenizers.controls.controls import Controls
else:
    _MODULES = {
        "PRIORS": "tokenreel.priors.base",
        "TOKENIZERS": "tokenreel.tokenizers.base",
        "Controls": "tokenreel.tokenizers.controls.controls",
        "Prior": "tokenreel.priors.base",
        "Samples": "tokenreel.priors.sampling.video",
        "SamplingConfig": "tokenreel.priors.sampling.logits",
        "TokenCache": "tokenreel.data.cache.reader",
        "TokenSpec": "tokenreel.data.spec",
        "VideoTokenizer": "tokenreel.tokenizers.base",
        "read_video": "tokenreel.data.video.reader",
        "sample": "tokenreel.priors.sampling.video",
        "sample_video": "tokenreel.priors.sampling.video",
        "to_frames": "tokenreel.data.pixels",
        "to_model": "tokenreel.data.pixels",
    }

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module 'tokenreel' has no attribute {name!r}")
        return getattr(importlib.import_module(_MODULES[name]), name)

    def __dir__():
        return sorted(__all__)
