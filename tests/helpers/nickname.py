"""A source and a tokenizer to be registered under names that only this module knows; worker processes import it.

`nick:` is `tabletop:`, "nickname" is "frame-vqvae"; both print, which must not harm the messages of their processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.tabletop import open_tabletop
from tokenreel.tokenizers.base import Tokens
from tokenreel.tokenizers.frame_vqvae import FrameVQVAE, FrameVQVAEConfig


def open_nickname(location: Location) -> VideoSource | None:
    if not location.text.startswith("nick:"):
        return None
    print("opening", flush=True)  # noqa: T201
    source = open_tabletop(Location(location.text.replace("nick:", "tabletop:")))
    location.options("videos", "seed", "frames", "size")
    assert source is not None
    source.location = location.text
    return source


@dataclass(frozen=True)
class NicknameConfig(FrameVQVAEConfig):
    type: ClassVar[str] = "nickname"


class Nickname(FrameVQVAE):
    config_class = NicknameConfig

    def encode(self, video: Tensor) -> Tokens:
        print("encoding", flush=True)  # noqa: T201
        return super().encode(video)
