"""Opening a location as a source: registered kinds, options, and ids that are refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numbered_videos import HEIGHT, WIDTH, numbers_of, write_numbered
from video_list import VideoList, open_video_list

from tokenreel.data.decoding.pool import DecodePool, ReadRequest
from tokenreel.data.sources.base import VideoEntry
from tokenreel.data.sources.open import SOURCES, open_source
from tokenreel.data.spec import Framing
from tokenreel.errors import ConfigError, DataError

AS_IS = Framing(HEIGHT, WIDTH)


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Removes after the test what it registered."""
    with patch.object(SOURCES, "_added", []):
        yield


@pytest.fixture
def listed(tmp_path: Path) -> str:
    for name in ("a.mp4", "b.mp4"):
        write_numbered(tmp_path / name, 3)
    (tmp_path / "list.txt").write_text("a.mp4\nb.mp4\n")
    return str(tmp_path / "list.txt")


def read_last_frame(location: str, workers: int) -> list[int]:
    with DecodePool(location, workers) as pool:
        (result,) = pool.read([ReadRequest(1, np.array([2]), AS_IS)], ahead=1)
    assert result.frames is not None
    return numbers_of(result.frames)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_registered_source_is_opened_in_this_process_and_in_workers(listed: str, workers: int) -> None:
    with pytest.raises(DataError, match="unknown kind"):
        open_source(listed)
    SOURCES.register("video-list", open_video_list, "a list of videos (.txt)")
    assert read_last_frame(listed, workers) == [2]
    with pytest.raises(DataError, match=r"did you mean 'list\.txt'.* a list of videos \(\.txt\)"):
        open_source(listed.replace("list", "lists"))


def test_a_function_that_workers_cannot_import_works_without_workers(listed: str) -> None:
    SOURCES.register("video-list", lambda location: open_video_list(location), "a list of videos")
    assert read_last_frame(listed, workers=0) == [2]
    with pytest.raises(ConfigError, match=r"source 'video-list': other processes cannot import .*<lambda>"):
        read_last_frame(listed, workers=1)


def test_a_module_that_a_worker_cannot_import_is_named(listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("of_this_process_alone")
    exec("def open_it(location): return None", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    SOURCES.register("nothing", module.open_it, "nothing")
    SOURCES.register("video-list", open_video_list, "a list of videos")
    with pytest.raises(DataError, match="source 'nothing': of_this_process_alone:open_it cannot be imported"):
        read_last_frame(listed, workers=1)


def test_a_name_can_be_registered_only_once() -> None:
    for _ in range(2):  # as a module that is imported again in another process does
        SOURCES.register("video-list", open_video_list, "a list of videos")
    for name in ("video-list", "videos"):
        with pytest.raises(ConfigError, match=f"named '{name}' exists already"):
            SOURCES.register(name, lambda location: None, "a list of videos")


def test_registered_sources_have_precedence_over_ours(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mp4", 3)
    opened = open_source(str(tmp_path / "a.mp4"))
    SOURCES.register("mine", lambda location: opened, "what I say")
    assert open_source("tabletop:") is opened


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["/data/a.mp4"], "must be a relative path without"),
        (["a/../../b.mp4"], "must be a relative path without"),
        (["C:\\a.mp4"], "must be a relative path without"),
        (["C:/a.mp4"], "must be a relative path without"),
        (["\\\\host\\a.mp4"], "must be a relative path without"),
        (["a\0.mp4"], "must be a relative path without"),
        (["a.mp4", "a.mp4"], "appears twice"),
        (["b.mp4", "a.mp4"], "are not sorted"),
        ([""], "must be a relative path without"),
        (["."], "must be a relative path without"),
    ],
)
def test_ids_that_are_ambiguous_or_leave_the_folder_are_refused(listed: str, ids: list[str], message: str) -> None:
    source = VideoList(listed, Path(listed))
    source.entries = tuple(map(VideoEntry, ids))
    SOURCES.register("mine", lambda location: source, "what I say")
    with pytest.raises(DataError, match=message):
        open_source(listed)


@pytest.mark.parametrize("options", ["fps=5", "videos=3"])
def test_options_without_effect_are_refused(listed: str, options: str) -> None:
    """A rate in the location does not change times that a container states."""
    for location in (Path(listed).parent, Path(listed).parent / "a.mp4"):
        with pytest.raises(DataError, match=r"option '\w+' is not known; videos of this kind have no options"):
            open_source(f"{location}?{options}")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("tabletop:?video=7", "did you mean 'videos'"),
        ("tabletop:?frames=x", "not a number"),
        ("tabletop:?size=inf", "an integer"),
        ("tabletop:?frame_rate=nan", "frame_rate"),
        ("tabletop:?videos=0", "at least 1"),
        ("tabletop:?size=3", "at least 8"),
        ("tabletop:?objects=1000", "objects"),
        ("tabletop:200", r"write tabletop: and settings after a \?"),
    ],
)
def test_settings_of_tabletop_are_checked(location: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(location)


class Labelled(VideoList):
    """Not the names that entries are to have."""

    def __init__(self, location: str, path: Path, **wrong: Any) -> None:
        super().__init__(location, path)
        self.entries = tuple(replace(entry, **wrong) for entry in self.entries)


@pytest.mark.parametrize(
    ("wrong", "message"), [({"label": 3}, "label of 'a.mp4' is 3"), ({"split": 0}, "split of .* is 0")]
)
def test_labels_and_splits_are_names(listed: str, wrong: dict[str, Any], message: str) -> None:
    SOURCES.register("labelled", lambda location: Labelled(location.text, location.path, **wrong), "a list")
    with pytest.raises(DataError, match=message):
        open_source(listed)


def test_an_option_that_no_opener_asked_for_is_refused(listed: str) -> None:
    SOURCES.register("video-list", open_video_list, "a list of videos (.txt)")
    with pytest.raises(DataError, match=r"option 'fpss' is not known; videos of this kind have no options"):
        open_source(f"{listed}?fpss=3")


@pytest.mark.parametrize("text", ["a" * 300, "a" * 5000, "a?" + "b" * 300])
def test_a_location_that_no_file_can_have_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="File name too long"):
        open_source(text)
