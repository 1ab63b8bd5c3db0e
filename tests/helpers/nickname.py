"""A source and a tokenizer to be registered under names that only this module knows; worker processes import it.

`nick:` is `tabletop:`, "nickname" is "frame-vqvae".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.tabletop import open_tabletop
from tokenreel.tokenizers.frame_vqvae import FrameVQVAE, FrameVQVAEConfig


def open_nickname(location: Location) -> VideoSource | None:
    if not location.text.startswith("nick:"):
        return None
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
