"""Stage one on squares that move over a plain background, in one uint8 array."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenreel.data.pixels import to_model
from tokenreel.data.video.writer import write_video
from tokenreel.errors import CheckpointError, ConfigError, UserError
from tokenreel.pipelines.commands import train_tokenizer
from tokenreel.pipelines.requests.training import TrainTokenizerRequest
from tokenreel.pipelines.training.run_folder import read_metrics
from tokenreel.tokenizers.base import VideoTokenizer

CLIPS, FRAMES, SIZE = 17, 5, 16
SETTINGS = [
    "data={frames: 5, framing: {height: 16, width: 16}, validation: 0.3}",
    "tokenizer={type: frame-vqvae, hidden: 16, residual: 8, blocks: 1, latent: 8}",
    "tokenizer.quantizer={type: vq, codebook_size: 13, init: kmeans, revive_below: 0.05}",
    "training={batch: 4, learning_rate: 0.003, checkpoint_every: 3, validate_every: 3, sample_every: 3}",
    "training.keep_checkpoints=9",
]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return make_videos(tmp_path / "squares.npy", seed=3)


def make_videos(path: Path, seed: int) -> Path:
    random = np.random.default_rng(seed)
    clips = np.full((CLIPS, FRAMES, SIZE, SIZE, 3), 40, np.uint8)
    for clip in clips:
        y, x, colour = random.integers(0, 8), random.integers(0, 6), random.integers(90, 255, 3)
        for t, frame in enumerate(clip):
            frame[y : y + 5, x + t : x + t + 5] = colour
    np.save(path, clips)
    return path


def train(videos: Path, out: Path, steps: int = 7, **flags: Any) -> dict[str, Any]:
    flags = {"assignments": SETTINGS, "workers": 0, **flags}
    return train_tokenizer.run(TrainTokenizerRequest(data=str(videos), out=out, steps=steps, device="cpu", **flags))


def test_a_tokenizer_learns_beats_the_mean_image_and_loads_from_its_run_folder(tmp_path: Path) -> None:
    """Patches of the size of a token in one of three colours: the mean image is poor, and two codes are too few."""
    colours = np.array([(40, 40, 40), (255, 90, 90), (90, 90, 255)], np.uint8)
    chosen = np.random.default_rng(3).integers(0, 3, (CLIPS, FRAMES, SIZE // 4, SIZE // 4))
    np.save(tmp_path / "patches.npy", colours[chosen].repeat(4, axis=2).repeat(4, axis=3))
    settings = [*SETTINGS, "tokenizer.quantizer={type: fsq, levels: [5, 5]}", "training.validate_every=30"]
    summary = train(tmp_path / "patches.npy", tmp_path / "run", steps=120, assignments=settings)
    first = next(line for line in read_metrics(tmp_path / "run/metrics.jsonl") if "validation/psnr" in line)
    assert summary["psnr"] > first["validation/psnr"] + 2
    assert summary["gain_over_mean_image"] > 2
    assert summary["video/codebook_usage"] * 25 > 2
    tokenizer = VideoTokenizer.from_pretrained(tmp_path / "run")
    assert tokenizer.about["scores"]["psnr"] == pytest.approx(summary["psnr"])
    assert tokenizer.spec.frames == FRAMES


def test_a_resumed_run_exports_the_same_bytes(tmp_path: Path, videos: Path) -> None:
    """The checkpoint also holds the codebook's counts and its revivals."""
    train(videos, tmp_path / "reference")
    train(videos, tmp_path / "resumed", resume=str(tmp_path / "reference/checkpoints/step_00000003"))
    reference, resumed = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("reference", "resumed"))
    assert reference == resumed


def test_decoding_in_workers_changes_nothing(tmp_path: Path, videos: Path) -> None:
    train(videos, tmp_path / "serial", steps=2)
    train(videos, tmp_path / "parallel", steps=2, workers=2)
    serial, parallel = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("serial", "parallel"))
    assert serial == parallel


def test_low_codebook_usage_raises_an_alarm(tmp_path: Path, videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = [*SETTINGS, "tokenizer.quantizer={type: vq, codebook_size: 509, init: uniform}"]
    with caplog.at_level(logging.WARNING):
        summary = train(videos, tmp_path / "run", steps=3, assignments=settings)
    assert summary["video/codebook_usage"] < 0.5
    assert "of 509 codes are in use" in summary["alarms"][0]
    assert summary["alarms"][0].endswith("; set init: kmeans, or lower codebook_size")
    assert summary["alarms"][0] in caplog.text


def test_a_collapsed_top_level_raises_an_alarm_of_its_own(tmp_path: Path) -> None:
    """Three different clips: their top tokens have at most three values, their bottom tokens at most 24."""
    videos = tmp_path / "noise.npy"
    np.save(videos, np.random.default_rng(3).integers(0, 256, (3, 4, 8, 8, 3), np.uint8)[np.arange(CLIPS) % 3])
    settings = [
        "data={frames: 4, framing: {height: 8, width: 8}, validation: 0.3}",
        "tokenizer={type: hierarchical-vqvae, hidden: 8, residual: 8, blocks: 1, latent: 4, mask_bottom: 0.0}",
        "tokenizer.quantizer={type: vq, codebook_size: 13, init: kmeans}",
        *SETTINGS[3:],
    ]
    summary = train(videos, tmp_path / "run", steps=3, assignments=settings)
    assert summary["top/codebook_usage"] < 0.5 <= summary["bottom/codebook_usage"]
    assert [alarm.split(":")[0] for alarm in summary["alarms"] if alarm.startswith("level")] == ["level 'top'"]


def test_codes_are_counted_on_training_clips_too_where_one_clip_is_held_out(tmp_path: Path) -> None:
    """More codes are then in use than in any one clip."""
    videos = tmp_path / "noise.npy"
    pixels = np.random.default_rng(3).integers(0, 256, (61, FRAMES, SIZE, SIZE, 3), np.uint8)
    np.save(videos, pixels)
    quantizer = "tokenizer.quantizer={type: vq, codebook_size: 127, init: kmeans, revive_below: 0.05}"
    settings = [*SETTINGS, quantizer, "training.validation_clips=1", "training.batch=12"]
    summary = train(videos, tmp_path / "run", steps=3, assignments=settings)
    tokenizer = VideoTokenizer.from_pretrained(tmp_path / "run")
    in_clips = [len(tokenizer.encode(to_model(clip[None]))["video"].unique()) / 127 for clip in pixels]
    assert summary["video/codebook_usage"] > max(in_clips) + 0.1
    assert (summary["held_out_clips"], summary["held_out_videos"]) == (1, 1)
    (alarm,) = summary["alarms"]
    assert alarm.startswith("the scores are of only 1 held-out clip of 1 video, and say little of others")
    card = (tmp_path / "run/README.md").read_text()
    assert "| held_out_clips | 1 |" in card


def test_a_run_without_held_out_clips_says_so(tmp_path: Path, videos: Path) -> None:
    summary = train(videos, tmp_path / "run", steps=1, assignments=[*SETTINGS, "data.validation=0"])
    assert summary["alarms"] == [
        "no clip is held out, so the model has no scores: give more videos, or raise data.validation"
    ]


def test_a_run_folder_of_other_videos_is_refused(tmp_path: Path, videos: Path) -> None:
    train(videos, tmp_path / "run", steps=2)
    fewer = tmp_path / "fewer.npy"
    np.save(fewer, np.load(videos)[:-3])
    with pytest.raises(CheckpointError, match="started on other data"):
        train(fewer, tmp_path / "run", steps=2)
    with pytest.raises(CheckpointError, match=r"started with tokenizer\.hidden = 16, not 32"):
        train(videos, tmp_path / "run", steps=2, assignments=[*SETTINGS, "tokenizer.hidden=32"])


def test_the_run_folder_holds_settings_and_samples_next_to_the_originals(tmp_path: Path, videos: Path) -> None:
    train(videos, tmp_path / "run", steps=3)
    config = json.loads((tmp_path / "run/run.json").read_text())["config"]
    assert config["tokenizer"]["quantizer"]["codebook_size"] == 13
    assert len(list((tmp_path / "run/samples/step_00000003").glob("clip_*.mp4"))) == 4


def test_a_dry_run_estimates_and_writes_nothing(tmp_path: Path, videos: Path) -> None:
    estimate = train(videos, tmp_path / "run", steps=1000, dry_run=True)
    assert estimate["clips"] == 4000
    assert not (tmp_path / "run").exists()


def test_probes_are_kept_beside_the_run(tmp_path: Path) -> None:
    """So that a resumed run reads the packets of no video; a dry run keeps none."""
    (tmp_path / "videos").mkdir()
    for number in range(3):
        clip = np.random.default_rng(number).integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
        write_video(tmp_path / "videos" / f"{number}.mp4", clip, 10)

    def kept(**flags: Any) -> dict[str, bytes]:
        train(tmp_path / "videos", tmp_path / "run", **flags)
        return {file.name: file.read_bytes() for file in (tmp_path / "run.probes").glob("*")}

    assert not kept(dry_run=True)
    first = kept()
    assert first
    assert kept() == first


def test_a_read_only_folder_is_refused_before_training(tmp_path: Path, videos: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(UserError, match=r"--out .*file/run cannot be written"):
        train(videos, blocked / "run")


def test_settings_without_a_tokenizer_say_where_to_get_one(tmp_path: Path, videos: Path) -> None:
    with pytest.raises(ConfigError, match="no section 'tokenizer': give --preset NAME"):
        train(videos, tmp_path / "run", assignments=SETTINGS[:1])


def test_unreadable_videos_are_named_with_their_reasons(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, clip in enumerate(np.load(make_videos(tmp_path / "squares.npy", seed=3))[:4]):
        write_video(folder / f"{number}.mp4", clip, 10)
    write_video(folder / "short.mp4", clip[:2], 10)
    (folder / "zero.mp4").write_bytes(b"")
    summary = train(folder, tmp_path / "run", steps=1)
    assert summary["quarantined_videos"] == ["zero.mp4: unreadable (the file is empty)"]
    assert (summary["quarantined"], summary["videos_too_short"]) == (1, 1)
