"""A kind of source to be registered: `nick:` for `tabletop:`. Worker processes import it from here."""

from __future__ import annotations

from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.tabletop import open_tabletop


def open_nickname(location: Location) -> VideoSource | None:
    if not location.text.startswith("nick:"):
        return None
    source = open_tabletop(Location(location.text.replace("nick:", "tabletop:")))
    assert source is not None
    source.location = location.text
    return source
