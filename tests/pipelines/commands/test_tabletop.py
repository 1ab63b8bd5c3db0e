"""`tokenreel tabletop`: its files hold the clips and their ground truth."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest

from tokenreel.config import from_mapping
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.errors import ConfigError, UserError
from tokenreel.pipelines.commands import tabletop
from tokenreel.pipelines.requests.program import TabletopRequest


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_videos_are_the_clips(tmp_path: Path) -> None:
    """Frames read from mp4 are close to the clip that configuration and index in the folder define."""
    summary = tabletop.run(TabletopRequest(directory=tmp_path / "out", videos=5, seed=7, frames=13, size=46))
    config = from_mapping(TabletopConfig, json.loads((tmp_path / "out/tabletop.json").read_text()))
    rows = _table(tmp_path / "out/metadata.csv")
    assert summary["videos"] == len(rows) == sum(summary["classes"].values()) == 5
    for row in rows:
        clip = tabletop_clip(config, int(row["index"]))
        assert row["label"] == clip.class_name == row["file_name"].split("/")[0]
        assert float(row["choice_entropy_bits"]) == pytest.approx(clip.choice_entropy_bits(), abs=1e-4)
        with av.open(tmp_path / "out" / row["file_name"]) as container:
            assert container.streams.audio
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert frames.shape == clip.frames.shape
        assert np.abs(frames.astype(int) - clip.frames).mean() < 4


def test_the_tables_hold_the_ground_truth(tmp_path: Path) -> None:
    tabletop.run(TabletopRequest(directory=tmp_path / "out", videos=3, seed=1, frames=17, size=16))
    clips = [tabletop_clip(TabletopConfig(16, 16, 17, seed=1), index) for index in range(3)]
    states = _table(tmp_path / "out/states.csv")
    assert len(states) == 3 * 17
    written = np.array([[float(row["x"]), float(row["y"])] for row in states]).reshape(3, 17, 2)
    assert written == pytest.approx(np.stack([clip.state for clip in clips]), abs=1e-6)
    choices = [(int(row["frame"]), int(row["options"])) for row in _table(tmp_path / "out/choices.csv")]
    assert choices == [(choice.frame, choice.options) for clip in clips for choice in clip.choices]
    contacts = [(int(row["frame"]), int(row["object"])) for row in _table(tmp_path / "out/contacts.csv")]
    assert contacts == [(contact.frame, contact.object) for clip in clips for contact in clip.contacts]


def test_a_folder_that_is_not_empty_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="already exists and is not empty"):
        tabletop.run(TabletopRequest(directory=tmp_path, videos=1, seed=0, frames=2, size=16))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_values_out_of_range_leave_no_folder(tmp_path: Path) -> None:
    for wrong in ({"videos": 0}, {"size": 3}, {"frames": 0}):
        with pytest.raises(ConfigError, match="="):
            tabletop.run(
                TabletopRequest(
                    directory=tmp_path / "out", **({"videos": 1, "seed": 0, "frames": 2, "size": 16} | wrong)
                )
            )
    assert not (tmp_path / "out").exists()
