"""The streams that the PixelCNN priors require: two levels, and for each the tokens of the given frames alone."""

from __future__ import annotations

from dataclasses import dataclass

from tokenreel.data.spec import StreamSpec, TokenSpec, given_name
from tokenreel.errors import ConfigError
from tokenreel.priors.base import vocabulary_size


@dataclass(frozen=True)
class LevelStreams:
    """A level, and the stream of its given frames alone, encoded without the frames after them."""

    stream: StreamSpec
    given: StreamSpec

    @property
    def vocabulary_size(self) -> int:
        return max(vocabulary_size(self.stream), vocabulary_size(self.given))


def required_levels(spec: TokenSpec) -> tuple[LevelStreams, LevelStreams]:
    """Top and bottom. Raises ConfigError where one is missing, or where tables 5 and 6 do not fit their grids."""
    top, bottom = (LevelStreams(_stream(spec, name), _stream(spec, given_name(name))) for name in ("top", "bottom"))
    for level in (top, bottom):
        same = level.stream.codebook_size == level.given.codebook_size and level.stream.grid[1:] == level.given.grid[1:]
        if not same or level.given.grid[0] >= level.stream.grid[0]:
            raise ConfigError(
                f"stream {level.given.name!r} (={level.given}) must hold the first steps of {level.stream.name!r} "
                f"(={level.stream}), but not all, with the same rows, columns and codebook size"
            )
    for coarse, fine in ((top.stream, bottom.stream), (top.given, bottom.given)):
        if tuple(2 * size for size in coarse.grid) != fine.grid:
            raise ConfigError(
                f"stream {fine.name!r}: its grid (={fine.grid}) must be twice that of {coarse.name!r} (={coarse.grid}) "
                "along each axis"
            )
    return top, bottom


def _stream(spec: TokenSpec, name: str) -> StreamSpec:
    found = [stream for stream in spec.streams if stream.name == name]
    if not found:
        names = ", ".join(stream.name for stream in spec.streams)
        raise ConfigError(
            f"these tokens lack stream {name!r}, which a PixelCNN prior requires; they have: {names}. Use "
            "tokenize-dataset with a tokenizer of two levels (type hierarchical-vqvae, as in preset "
            "video-vqvae-tabletop-tiny), which writes top, bottom, top_given and bottom_given"
        )
    if found[0].codebooks != 1:
        raise ConfigError(f"stream {name!r}: a PixelCNN prior requires one codebook, got {found[0].codebooks}")
    return found[0]
