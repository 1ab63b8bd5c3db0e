"""Tokens that another program made, as a cache of their own."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

from tokenreel.data.cache.token_file import RowNames, write_foreign_tokens
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.numpy_files import read_foreign_tokens, read_row_names
from tokenreel.data.spec import Framing
from tokenreel.errors import DataError

logger = logging.getLogger(__name__)

_NUMBERS = ("codebook_size", "stride", "height", "width")  # options; stride: frames per code step
_NAMES = ("labels", "splits", "groups")  # options: .npy files of an integer or a name for each row


def import_tokens(location: Location, out: Path) -> dict[str, Any]:
    """Writes tokens [N, t, h, w] or [N, t, h, w, q] of an .npy file as a cache. Returns the summary.

    Options of the location: those of `_NUMBERS` and `_NAMES`, and `fps`. Height, width and fps are of the videos, which
    are unknown: by default a pixel per token. Files of names are relative to the folder of the tokens. Raises DataError
    for any other file, for tokens outside of the codebook, and where the splits divide a group.
    """
    if location.path.suffix != ".npy":
        raise DataError(f"--data {location.text} is not an .npy file of tokens: give one, or a --tokenizer for videos")
    rate = location.frame_rate(*_NUMBERS, *_NAMES)
    options = location.options(*_NUMBERS, *_NAMES, "fps")
    numbers = {name: _positive(location, name, options[name]) for name in _NUMBERS if name in options}
    tokens = read_foreign_tokens(location.path)
    codebook_size = _codebook_size(location, int(tokens.max()), numbers.get("codebook_size"))
    height, width = (numbers.get(name, size) for name, size in zip(("height", "width"), tokens.shape[2:4], strict=True))
    framing = Framing(height, width, frame_rate=rate)
    not_stated = {field.name for field in fields(Framing)} - numbers.keys() - ({"frame_rate"} if rate else set())
    folder = location.path.parent
    names = RowNames(
        **{name: read_row_names(folder / options[name], len(tokens)) for name in _NAMES if name in options}
    )
    cache_id = write_foreign_tokens(
        out, tokens, framing, codebook_size, numbers.get("stride", 1), names=names, not_stated=not_stated
    )
    result = {"rows": len(tokens), "tokens": int(tokens.size), "codebook_size": codebook_size}
    return {**result, "out": str(out), "cache_id": cache_id, "sealed": True}


def _codebook_size(location: Location, largest: int, stated: int | None) -> int:
    """The codebook size as it is stated; one more than the largest token, with a warning, if it is not."""
    if stated is None:
        logger.warning(
            "codebook_size: %d, as the largest token is %d; state it by --data '%s?codebook_size=K'",
            largest + 1,
            largest,
            location.without_options,
        )
        return largest + 1
    if largest >= stated:
        raise DataError(f"{location.text}: codebook_size (={stated}) must be above the largest token, {largest}")
    return stated


def _positive(location: Location, name: str, text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise DataError(f"{location.text}: {name} (={text}) must be a whole number from 1 to 2^31")
    return int(text)
