"""Controls read for the rows of a plan, out of synthetic data and out of files, are those of the frames shown."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tokenreel.data.clips import ControlClip, read_control_inputs
from tokenreel.data.controls.inputs import STATES, ClassSource, ControlSource, SoundSource, TableSource
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import Plan, make_plan
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.spec import Framing
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.data.video.writer import write_video
from tokenreel.errors import DataError
from tokenreel.pipelines.commands import tabletop
from tokenreel.pipelines.requests.program import TabletopRequest

FRAMES = 17  # of a video, at 10 frames per second
SOURCES: dict[str, ControlSource] = {
    "sound": SoundSource(16000, 1600, 10.0),
    "class": ClassSource(),
    "state": TableSource(STATES, ("y", "x")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tabletop") / "videos"
    tabletop.run(TabletopRequest(directory=path, videos=5, seed=3, frames=FRAMES, size=16))
    return path


def planned(pool: DecodePool, frames: int = 5, frame_rate: float | None = None, clip_stride: int | None = None) -> Plan:
    config = DataConfig(Framing(16, 16, frame_rate), frames, clip_stride)
    return make_plan(pool.source, config, pool.probe(range(len(pool.source.entries))))


def read(
    data: str, sources: dict[str, ControlSource] = SOURCES, workers: int = 0, **flags: float
) -> tuple[Plan, list[ControlClip | DecodeFailure]]:
    """Every row, the rows of a video requested together."""
    with DecodePool(data, workers) as pool:
        plan = planned(pool, **flags)  # type: ignore[arg-type]
        edges = [0, *(np.flatnonzero(np.diff(plan.video)) + 1).tolist(), len(plan)]
        spans = [range(a, b) for a, b in pairwise(edges)]
        found: list[ControlClip | DecodeFailure] = []
        for span, clips in zip(spans, read_control_inputs(plan, pool, sources, spans, 2), strict=True):
            found += [clips] * len(span) if isinstance(clips, DecodeFailure) else clips
        return plan, found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("clip_stride", [None, 2])
def test_rows_of_files_have_the_true_controls(folder: Path, workers: int, clip_stride: int | None) -> None:
    plan, found = read(str(folder), workers=workers, clip_stride=clip_stride)
    assert len(found) == (15 if clip_stride is None else 35)
    for row, inputs in enumerate(found):
        assert isinstance(inputs, dict)
        assert list(inputs) == list(SOURCES)
        name = plan.videos[plan.video[row]].id
        clip = tabletop_clip(TabletopConfig(height=16, width=16, frames=FRAMES, seed=3), int(Path(name).stem))
        first = int(plan.first[row])
        assert inputs["class"] == clip.class_name
        state, sound = inputs["state"], inputs["sound"]
        assert isinstance(state, np.ndarray)
        assert isinstance(sound, np.ndarray)
        np.testing.assert_allclose(state, clip.state[first : first + 5, ::-1], atol=1e-6)
        true = clip.sound[first * 1600 : (first + 5) * 1600]
        assert np.abs(sound.reshape(-1) - true).max() < 0.02  # AAC


def test_tabletop_data_is_what_its_files_say(folder: Path) -> None:
    _, of_files = read(str(folder))
    _, rendered = read(f"tabletop:?videos=5&seed=3&frames={FRAMES}&size=16")
    by_class = [
        sorted(str(inputs["class"]) for inputs in rows if isinstance(inputs, dict)) for rows in (of_files, rendered)
    ]
    assert by_class[0] == by_class[1]


def test_a_resampled_clip_follows_its_own_timeline(folder: Path) -> None:
    """At 20 frames per second each frame appears twice, with its state twice, while its sound continues."""
    sources: dict[str, ControlSource] = {"sound": SoundSource(16000, 800, 20.0), "state": TableSource(STATES, ("x",))}
    plan, found = read(str(folder), sources, frame_rate=20.0, frames=7)
    for row, inputs in enumerate(found):
        assert isinstance(inputs, dict)
        name = plan.videos[plan.video[row]].id
        clip = tabletop_clip(TabletopConfig(height=16, width=16, frames=FRAMES, seed=3), int(Path(name).stem))
        ticks = plan.first[row] + np.arange(7)
        np.testing.assert_allclose(inputs["state"], clip.state[ticks // 2, :1], atol=1e-6)
        true = clip.sound[ticks[0] * 800 : (ticks[-1] + 1) * 800]
        assert np.abs(np.asarray(inputs["sound"]).reshape(-1) - true).max() < 0.02


def test_a_video_of_another_rate_is_a_failure_of_that_video(folder: Path) -> None:
    _, found = read(str(folder), {"sound": SoundSource(16000, 640, 25.0)})
    assert all(isinstance(inputs, DecodeFailure) for inputs in found)
    assert "its frames come at 10 per second, the sound's encoder was fitted for 25" in str(found[0])


def test_a_table_of_another_length_is_refused(folder: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((5, 16, 16, 3), np.uint8), 10.0)
    (tmp_path / STATES).write_text("file_name,frame,x\n" + "".join(f"a.mp4,{i},0.5\n" for i in range(7)))
    with pytest.raises(DataError, match=r"a\.mp4: states\.csv has 7 rows for it, expected one for each of its 5 frame"):
        read(str(tmp_path), {"state": TableSource(STATES, ("x",))}, workers=1)


def test_a_source_without_a_control_says_so(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((5, 16, 16, 3), np.uint8), 10.0)
    _, found = read(str(tmp_path), {"sound": SoundSource(16000, 1600, 10.0)})
    assert "no-sound" in str(found[0])
    with pytest.raises(DataError, match=r"a\.mp4: it has no class"):
        read(str(tmp_path), {"class": ClassSource()})
    np.save(tmp_path / "a.npy", np.zeros((5, 16, 16, 3), np.uint8))
    array = f"{tmp_path / 'a.npy'}?fps=10"
    with pytest.raises(DataError, match="sources of this kind have no sound"):
        read(array, {"sound": SoundSource(16000, 1600, 10.0)})
    with pytest.raises(DataError, match=r"have no per-frame tables, so .states\.csv'"):
        read(array, {"state": TableSource(STATES, ("x",))})
    with pytest.raises(DataError, match=r"no column 'z'; known: x, y"):
        read("tabletop:?videos=1&frames=5&size=16", {"state": TableSource(STATES, ("z",))})
