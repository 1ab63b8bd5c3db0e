"""A source to be registered under a name that only this module knows: `warn:` is `tabletop:`, and warns as it reads."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import numpy as np

from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.tabletop import open_tabletop
from tokenreel.data.spec import Framing

ESCAPE = "\x1b[31mred"


def open_warning(location: Location) -> VideoSource | None:
    if not location.text.startswith("warn:"):
        return None
    source = open_tabletop(Location(location.text.replace("warn:", "tabletop:")))
    location.options("videos", "seed", "frames", "size")
    assert source is not None
    source.location = location.text
    setattr(source, "read", _warning(source.read))  # noqa: B010 - a method of one object
    return source


def _warning(
    read: Callable[[int, np.ndarray, Framing], np.ndarray],
) -> Callable[[int, np.ndarray, Framing], np.ndarray]:
    def warn_and_read(index: int, indices: np.ndarray, framing: Framing) -> np.ndarray:
        warnings.warn(f"{ESCAPE}\nof a file", RuntimeWarning, stacklevel=2)
        logger = logging.getLogger("a.library")
        logger.info("not a warning")
        logger.error("%s is long", "x" * 999)
        logger.warning("%d is not text", "five")
        logger.warning("video %d", index)
        return read(index, indices, framing)

    return warn_and_read
