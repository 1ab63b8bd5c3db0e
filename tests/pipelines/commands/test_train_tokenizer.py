"""Stage one on squares that move over a plain background, in one uint8 array."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.clips import ClipReader
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.pixels import to_model
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.sources.base import ReadRequest
from tokenreel.data.spec import Framing
from tokenreel.data.video.writer import write_video
from tokenreel.errors import CheckpointError, ConfigError, UserError
from tokenreel.pipelines.commands import tokenize_dataset, train_tokenizer
from tokenreel.pipelines.common.plans import plan_of
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.requests.training import TrainTokenizerRequest
from tokenreel.pipelines.training.run_folder import read_metrics
from tokenreel.pipelines.training.tokenizer_objective import TokenizerObjective, TokenizerTrainingConfig
from tokenreel.tokenizers.base import VideoTokenizer, build_tokenizer

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


def long_videos(path: Path) -> Path:
    """Videos of 11 frames whose pixels are 20 times the frame's number."""
    np.save(path, np.broadcast_to(np.arange(11, dtype=np.uint8)[:, None, None, None] * 20, (7, 11, SIZE, SIZE, 3)))
    return path


def objective(pool: DecodePool, **training: Any) -> TokenizerObjective:
    data = DataConfig(Framing(SIZE, SIZE), FRAMES, validation=0.3)
    plan = plan_of(pool, data)
    model = {"type": "frame-vqvae", "hidden": 4, "residual": 2, "blocks": 1, "latent": 4}
    tokenizer = build_tokenizer(model, data.frames, data.framing)
    config = TokenizerTrainingConfig(**training)
    return TokenizerObjective(tokenizer, plan, ClipReader(plan, pool, 1.0), config, torch.device("cpu"))


@pytest.mark.parametrize(("clip_frames", "starts"), [(None, 7), (1, 11)])
def test_training_clips_begin_at_any_frame(tmp_path: Path, clip_frames: int | None, starts: int) -> None:
    """By (seed, sample) alone, every start about equally often, in every epoch anew."""
    with DecodePool(str(long_videos(tmp_path / "long.npy")), 0) as pool:
        tested = objective(pool, random_start=True, clip_frames=clip_frames, seed=5)
        rows, samples = np.resize(tested.rows, 11 * 20), np.arange(11 * 20)
        frames = ((tested.batch(rows, samples)[:, 0, :, 0, 0] + 1) * 127.5 / 20).round().long()
        assert frames.shape[1] == (clip_frames or FRAMES)
        assert torch.equal(frames, frames[:, :1] + torch.arange(frames.shape[1]))
        counts = torch.bincount(frames[:, 0], minlength=11)
        assert (counts[:starts] > 5).all()
        assert not counts[starts:].any()
        again = tested.batch(rows[100:103], samples[100:103])
        assert torch.equal(again, tested.batch(rows, samples)[100:103])
        assert not torch.equal(again, tested.batch(rows[100:103], samples[:3]))


def test_a_tokenizer_trained_on_single_frames_makes_tokens_of_clips(tmp_path: Path, videos: Path) -> None:
    """Its spec, and so caches and priors, have the clips of `data`; validation too."""
    settings = [*SETTINGS, "training={random_start: true, clip_frames: 1, batch: 7}"]
    summary = train(videos, tmp_path / "run", steps=3, assignments=settings)
    assert summary["clips"] == 21
    assert VideoTokenizer.from_pretrained(tmp_path / "run").spec.frames == FRAMES
    cache = tmp_path / "cache"
    request = {"tokenizer": str(tmp_path / "run"), "data": str(videos), "out": cache, "allow_collapsed": True}
    tokenize_dataset.run(TokenizeRequest(**request))
    tokens = TokenCache.open(cache)
    assert tokens.read(tokens.rows())["video"].shape == (CLIPS, FRAMES, 4, 4, 1)
    with pytest.raises(UserError, match="another"):
        train(videos, tmp_path / "run", steps=4)  # of the plan's clips


CONTEXT = "{type: context-autoencoder, width: 4, multipliers: [1, 1], latent: 4, autoregressive_frames: 3}"


@pytest.mark.parametrize(
    ("tokenizer", "training", "message"),
    [
        ("{}", "{clip_frames: 1}", r"clip_frames \(=1\) needs random_start"),
        ("{}", "{clip_frames: 6, random_start: true}", r"clip_frames \(=6\) must be between 1 and 5"),
        ("{}", "{clip_frames: 0, random_start: true}", r"clip_frames \(=0\) must be between 1 and 5"),
        (CONTEXT, "{clip_frames: 2, random_start: true}", r"between 3 and 5 for this tokenizer \(context-autoenc"),
    ],
)
def test_lengths_of_training_clips_that_do_not_fit_are_refused(
    tmp_path: Path, videos: Path, tokenizer: str, training: str, message: str
) -> None:
    settings = [*SETTINGS, f"tokenizer={tokenizer}", f"training={training}"]
    with pytest.raises(ConfigError, match=message):
        train(videos, tmp_path / "run", assignments=settings)


def test_tokenizers_whose_tokens_depend_on_later_frames_need_all_of_them(tmp_path: Path) -> None:
    with DecodePool(str(long_videos(tmp_path / "long.npy")), 0) as pool:
        plan = plan_of(pool, DataConfig(Framing(SIZE, SIZE), 8))
        model = {"type": "hierarchical-vqvae", "hidden": 8, "residual": 8, "blocks": 1, "latent": 4, "given_frames": 4}
        tokenizer, device = build_tokenizer(model, 8, Framing(SIZE, SIZE)), torch.device("cpu")
        config, reader = TokenizerTrainingConfig(random_start=True, clip_frames=4), ClipReader(plan, pool, 1.0)
        with pytest.raises(ConfigError, match=r"clip_frames \(=4\) must be 8, all frames of a clip, .* time window"):
            TokenizerObjective(tokenizer, plan, reader, config, device)


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


def test_a_new_run_starts_with_the_weights_of_a_saved_tokenizer(tmp_path: Path, videos: Path) -> None:
    """On other videos: its codebook is not initialised again, and its framing is the default."""
    train(videos, tmp_path / "run", steps=20)
    saved = VideoTokenizer.from_pretrained(tmp_path / "run")
    others = make_videos(tmp_path / "others.npy", seed=5)
    settings = [
        "data.validation=0.3",
        "training={learning_rate: 1.0e-12, batch: 4}",
        "tokenizer.quantizer.decay=0.9999",
    ]
    settings.append("tokenizer.quantizer.revive_below=0")
    summary = train(others, tmp_path / "tuned", steps=1, assignments=settings, init_from=str(tmp_path / "run"))
    tuned = VideoTokenizer.from_pretrained(tmp_path / "tuned")
    assert tuned.spec == saved.spec
    for name, tensor in saved.state_dict().items():
        torch.testing.assert_close(tuned.state_dict()[name].double(), tensor.double(), rtol=1e-3, atol=1e-3)
    assert tuned.about["initialised_from"] == saved.weights_fingerprint
    assert [text.split(" was ")[0] for text in summary["init_from"]["differs"]] == [
        "tokenizer.quantizer.decay",
        "tokenizer.quantizer.revive_below",
    ]


def test_clips_are_decoded_again_where_the_clip_memory_is_too_small_to_keep_them(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    submit = DecodePool.submit

    def counted(pool: DecodePool, request: ReadRequest) -> Any:
        decoded.append(request.video)
        return submit(pool, request)

    monkeypatch.setattr(DecodePool, "submit", counted)
    found = {}
    for gib in (1.0, 3 * FRAMES * SIZE * SIZE * 3 / 2**30):  # all clips, and three of them
        decoded.clear()
        train(videos, tmp_path / f"run-{gib}", steps=9, clip_memory=gib)
        found[gib] = len(decoded)
    enough, little = found.values()
    assert enough == len(set(decoded)) <= CLIPS
    assert little > 2 * enough, found
