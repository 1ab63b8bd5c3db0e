"""tokenreel: video -> discrete tokens -> a prior over them -> video.

The public names are imported when first used, so that `import tokenreel` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Controls": "tokenreel.tokenizers.controls.controls",
    "Prior": "tokenreel.priors.base",
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
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tokenreel' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
