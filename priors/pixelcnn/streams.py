"""The streams that the two PixelCNN priors need, checked: two levels, and a track of the given frames for each."""

from __future__ import annotations

from dataclasses import dataclass

from tokenreel.data.spec import StreamSpec, TokenSpec, given_name
from tokenreel.errors import ConfigError


@dataclass(frozen=True)
class Level:
    """A level of codes and the same for the given frames alone, encoded without the frames after them."""

    stream: StreamSpec
    given: StreamSpec

    @property
    def vocabulary(self) -> int:
        return max(vocabulary(self.stream), vocabulary(self.given))


def two_levels(spec: TokenSpec) -> tuple[Level, Level]:
    """Top and bottom. Raises ConfigError where one is missing, or their grids are none that tables 5 and 6 connect."""
    top, bottom = (Level(_stream(spec, name), _stream(spec, given_name(name))) for name in ("top", "bottom"))
    for level in (top, bottom):
        same = level.stream.codebook_size == level.given.codebook_size and level.stream.grid[1:] == level.given.grid[1:]
        if not same or level.given.grid[0] >= level.stream.grid[0]:
            raise ConfigError(
                f"stream {level.given.name!r} (={level.given}) must hold the first steps of {level.stream.name!r} "
                f"(={level.stream}), fewer than all: rows, columns and codes must be the same"
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
            f"these tokens lack stream {name!r}, which a PixelCNN prior needs; they have: {names}. Make top, bottom, "
            "top_given and bottom_given by tokenize-dataset with a tokenizer of two levels (type hierarchical-vqvae, "
            "as in preset video-vqvae-tabletop-tiny)"
        )
    if found[0].codebooks != 1:
        raise ConfigError(f"stream {name!r}: a PixelCNN prior knows one codebook, not {found[0].codebooks}")
    return found[0]


def vocabulary(stream: StreamSpec) -> int:
    """Codes of the stream with its null code, if it has one."""
    return stream.codebook_size + (stream.unconditional_token is not None)
