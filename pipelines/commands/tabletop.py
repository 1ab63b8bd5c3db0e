"""`tokenreel tabletop`: writes the synthetic Tabletop data set as the files of a real one, with the ground truth.

<directory>/<class>/000000.mp4   a clip with its sound
metadata.csv    file_name, label, index, choice_entropy_bits (of all after the first frame)
states.csv      file_name, frame, x, y: tip of the arm, as fractions of width and height
choices.csv     file_name, frame, name, options, taken: everything random after the first state
contacts.csv    file_name, frame, object, pitch in hertz: the sounds
tabletop.json   the configuration, from which `tabletop_clip` makes everything again, optical flow too
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tokenreel.config import to_mapping
from tokenreel.data.tabletop.clip import CLASSES, TabletopClip, TabletopConfig, tabletop_clip
from tokenreel.data.tabletop.scene import CONFIG_FILE
from tokenreel.data.video.writer import write_video
from tokenreel.errors import DataError
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.requests.program import TabletopRequest

MAX_WRITERS = 4  # threads; encoding releases Python's lock, rendering mostly does


def run(request: TabletopRequest) -> dict[str, Any]:
    """Writes clips 0 ... videos - 1 of `seed`, each of `frames` frames of size x size pixels.

    Raises ConfigError for a size or number out of range, UserError if `directory` is not empty, DataError where a file
    cannot be written.
    """
    directory, videos = request.directory, request.videos
    config = TabletopConfig(height=request.size, width=request.size, frames=request.frames, seed=request.seed)
    fresh_folder(directory, "DIRECTORY")
    clips = [tabletop_clip(config, index) for index in range(videos)]  # motion only: nothing is rendered yet
    for name in sorted({clip.class_name for clip in clips}):
        (directory / name).mkdir()
    with ThreadPoolExecutor(min(MAX_WRITERS, os.cpu_count() or 1)) as threads:
        written = threads.map(lambda index: _write_clip(directory, config, index), range(videos))
        size_bytes = sum(progress(written, "tabletop", "video", total=videos))
    _write_truth(directory, config, clips)
    return {
        "directory": str(directory),
        "videos": videos,
        "frames": videos * request.frames,
        "classes": {name: sum(clip.class_name == name for clip in clips) for name in CLASSES},
        "megabytes": round(size_bytes / 1e6, 2),
        "mean_choice_entropy_bits": sum(clip.choice_entropy_bits() for clip in clips) / videos,
    }


def _write_clip(directory: Path, config: TabletopConfig, index: int) -> int:
    """Returns the file's size in bytes. The clip lives here only, so that memory does not grow with their number."""
    clip = tabletop_clip(config, index)
    path = directory / _file_name(clip)
    write_video(path, clip.frames, config.frame_rate, clip.sound, clip.sample_rate)
    return path.stat().st_size


def _file_name(clip: TabletopClip) -> str:
    return f"{clip.class_name}/{clip.index:06d}.mp4"


def _write_truth(directory: Path, config: TabletopConfig, clips: list[TabletopClip]) -> None:
    tables = {
        "metadata.csv": (["file_name", "label", "index", "choice_entropy_bits"], _metadata(clips)),
        "states.csv": (["file_name", "frame", "x", "y"], _states(clips)),
        "choices.csv": (["file_name", "frame", "name", "options", "taken"], _choices(clips)),
        "contacts.csv": (["file_name", "frame", "object", "pitch"], _contacts(clips)),
    }
    try:
        for name, (columns, rows) in tables.items():
            _write_table(directory / name, columns, rows)
        (directory / CONFIG_FILE).write_text(json.dumps(to_mapping(config), indent=2) + "\n")
    except OSError as error:
        raise DataError(f"{directory} cannot be written: {error.strerror}") from error


def _write_table(path: Path, columns: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows(rows)


def _metadata(clips: list[TabletopClip]) -> Iterator[tuple[Any, ...]]:
    for clip in clips:
        yield _file_name(clip), clip.class_name, clip.index, f"{clip.choice_entropy_bits():.4f}"


def _states(clips: list[TabletopClip]) -> Iterator[tuple[Any, ...]]:
    for clip in clips:
        for frame, (x, y) in enumerate(clip.state):
            yield _file_name(clip), frame, f"{x:.6f}", f"{y:.6f}"


def _choices(clips: list[TabletopClip]) -> Iterator[tuple[Any, ...]]:
    for clip in clips:
        for choice in clip.choices:
            yield _file_name(clip), choice.frame, choice.name, choice.options, choice.taken


def _contacts(clips: list[TabletopClip]) -> Iterator[tuple[Any, ...]]:
    for clip in clips:
        for contact in clip.contacts:
            yield _file_name(clip), contact.frame, contact.object, clip.scene.kinds[contact.object].pitch
