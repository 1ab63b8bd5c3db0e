"""Pictures of held-out clips reach the trackers that take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import every_objective
import numpy as np
import pytest
import torch
from every_objective import FRAMES, SIZE, STEPS, TRAINING

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.pixels import to_frames, to_model
from tokenreel.data.spec import Framing
from tokenreel.errors import CacheError, ConfigError
from tokenreel.pipelines.commands import tokenize_dataset, train_prior
from tokenreel.pipelines.decoding.tokens_to_video import decode_tokens
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.requests.training import TrainPriorRequest
from tokenreel.pipelines.training import session
from tokenreel.pipelines.training.session import make_accelerator
from tokenreel.pipelines.training.tracker_pictures import film_strips
from tokenreel.testing.tokenizers import spread_codes
from tokenreel.tokenizers.base import VideoTokenizer, build_tokenizer


class FakeTracker:
    def __init__(self, name: str) -> None:
        self.name = name
        self.values: set[str] = set()
        self.pictures: dict[tuple[int, str], tuple[Any, dict[str, Any]]] = {}

    def log(self, values: dict[str, Any], step: int) -> None:
        self.values |= values.keys()

    def log_images(self, values: dict[str, Any], step: int, **settings: Any) -> None:
        self.pictures |= {(step, name): (value, settings) for name, value in values.items()}

    def finish(self) -> None:
        pass


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> list[FakeTracker]:
    """Those of every run; the last is of a kind that takes no pictures."""
    fakes = [FakeTracker(name) for name in ("tensorboard", "wandb", "mlflow")]
    monkeypatch.setattr(session, "start_trackers", lambda accelerator, sections: accelerator.trackers.extend(fakes))
    monkeypatch.setattr(train_prior, "make_accelerator", lambda device, names, out: make_accelerator(device, (), out))
    return fakes


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Videos as `every_objective` has them, a tokenizer and a cache of its tokens."""
    every_objective.make_inputs(tmp_path)
    torch.manual_seed(0)
    section = {"type": "frame-vqvae", "hidden": 4, "residual": 2, "blocks": 1, "latent": 5}
    quantizer = {"type": "vq", "codebook_size": 13, "init": "uniform"}
    tokenizer = build_tokenizer({**section, "quantizer": quantizer}, FRAMES, Framing(SIZE, SIZE))
    spread_codes(tokenizer).save_pretrained(tmp_path / "tokenizer")
    made = {"tokenizer": str(tmp_path / "tokenizer"), "out": tmp_path / "own-cache", "workers": 1, "device": "cpu"}
    tokenize_dataset.run(TokenizeRequest(data=str(tmp_path / "noise.npy"), **made))
    return tmp_path


def test_reconstructions_stand_below_the_clips(inputs: Path, trackers: list[FakeTracker]) -> None:
    every_objective.train("frames", inputs, inputs / "run")
    board, wandb, other = trackers
    assert list(board.pictures) == [(step, f"reconstructions/clip_{n:02d}") for step in (10, STEPS) for n in (0, 1)]
    batch, settings = board.pictures[STEPS, "reconstructions/clip_00"]
    assert settings == {"dataformats": "NHWC"}
    assert (batch.shape, batch.dtype) == ((1, 2 * SIZE, FRAMES * SIZE, 3), np.uint8)
    frames = batch[0].reshape(2, SIZE, FRAMES, SIZE, 3).transpose(0, 2, 1, 3, 4)
    assert any(np.array_equal(frames[0], clip) for clip in np.load(inputs / "noise.npy"))
    trained = VideoTokenizer.from_pretrained(inputs / "run")
    decoded = to_frames(trained.decode(trained.encode(to_model(frames[:1].copy(), trained.device))).detach())
    assert np.abs(decoded[0].astype(int) - frames[1]).max() <= 1
    assert wandb.pictures.keys() == board.pictures.keys()
    ((picture,), nothing) = wandb.pictures[STEPS, "reconstructions/clip_00"]
    assert np.array_equal(picture, batch[0])
    assert not nothing
    assert not other.pictures
    assert {"train/reconstruction", "validation/psnr"} <= other.values


def test_decoded_samples_stand_below_the_decoded_clips_if_there_is_a_tokenizer(
    inputs: Path, trackers: list[FakeTracker]
) -> None:
    every_objective.train("gpt", inputs, inputs / "without")
    assert not trackers[0].pictures
    settings = ["prior={type: gpt, depth: 1, width: 8, heads: 2}", *TRAINING]
    flags: dict[str, Any] = {"cache": inputs / "own-cache", "assignments": settings, "device": "cpu", "steps": 10}
    flags |= {"out": inputs / "run", "tokenizer": str(inputs / "tokenizer")}
    with pytest.raises(ConfigError, match="shows samples in the trackers of --log-with, which is not given"):
        train_prior.run(TrainPriorRequest(**flags))
    train_prior.run(TrainPriorRequest(log_with=["wandb"], **flags))
    tokenizer, cache = VideoTokenizer.from_pretrained(inputs / "tokenizer"), TokenCache.open(inputs / "own-cache")
    samples = TokenCache.open(inputs / "run/samples/step_00000010")
    true = decode_tokens(tokenizer, cache.read(cache.rows("validation")[:2]))
    decoded = decode_tokens(tokenizer, samples.read(samples.rows()))
    for number in range(2):
        ((picture,), _) = trackers[1].pictures[10, f"samples/clip_{number:02d}"]
        assert np.array_equal(picture, film_strips(true[number], decoded[number]))
    every_objective.train("lookup-free", inputs, inputs / "other")
    with pytest.raises(CacheError, match="belong to different tokenizers"):
        train_prior.run(TrainPriorRequest(log_with=["wandb"], **{**flags, "tokenizer": str(inputs / "other")}))


def test_a_strip_has_evenly_spaced_frames_from_left_to_right() -> None:
    video = np.arange(29, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 3), np.uint8)
    strip = film_strips(video, video + 100)
    assert strip.shape == (4, 24, 3)
    assert strip[0, ::3, 0].tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert strip[2, ::3, 0].tolist() == [100, 104, 108, 112, 116, 120, 124, 128]
