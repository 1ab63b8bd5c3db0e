"""Stage two on a cache of imported tokens, in which each frame is the previous one with every token one higher."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_foreign_tokens
from tokenreel.data.spec import Framing
from tokenreel.errors import CacheError, CheckpointError, ConfigError, HubError
from tokenreel.metrics.likelihood import bits_per_code
from tokenreel.pipelines.commands import sample, train_prior
from tokenreel.pipelines.requests.generation import SampleRequest
from tokenreel.pipelines.requests.training import TrainPriorRequest
from tokenreel.pipelines.training.checkpoint import read_checkpoint
from tokenreel.pipelines.training.prior_objective import PriorObjective, PriorTrainingConfig
from tokenreel.pipelines.training.run_folder import read_metrics
from tokenreel.priors.base import Prior, build_prior
from tokenreel.sample_random import SampleRandom

K, CLIPS, STEPS = 5, 61, 7  # codebook size, clips, frames of a clip
SETTINGS = [
    "prior={type: gpt, depth: 1, width: 16, heads: 2, dropout: 0.1}",
    "training={batch: 6, learning_rate: 0.01, checkpoint_every: 4, validate_every: 4, sample_every: 4}",
    "training.keep_checkpoints=9",
]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return make_cache(tmp_path / "codes.tokens", seed=3)


def make_cache(path: Path, seed: int) -> Path:
    first = np.random.default_rng(seed).integers(0, K, (CLIPS, 1, 2, 3))
    write_foreign_tokens(path, (first + np.arange(STEPS)[None, :, None, None]) % K, Framing(8, 12), codebook_size=K)
    return path


def train(cache: Path, out: Path, steps: int = 9, **flags: Any) -> dict[str, Any]:
    flags = {"assignments": SETTINGS, **flags}
    return train_prior.run(TrainPriorRequest(cache=cache, out=out, steps=steps, device="cpu", **flags))


def test_a_prior_beats_the_counted_baselines_and_loads_from_its_run_folder(tmp_path: Path, cache: Path) -> None:
    summary = train(cache, tmp_path / "run", steps=150)
    assert summary["bits_per_code"] < 0.5 * summary["bits_per_code_unigram"]
    assert summary["bits_per_code_temporal_bigram"] < 0.5, "the next token is certain, except for smoothing"
    assert summary["given_frames"] == 1
    prior = Prior.from_pretrained(tmp_path / "run")
    tokens = TokenCache.open(cache)
    assert prior.code_fingerprint == tokens.code_fingerprint
    assert prior.about["steps"] == 150
    codes = torch.from_numpy(tokens.read(tokens.rows("validation"))["video"]).long()
    again = bits_per_code(prior, [{"video": codes}], prior.given_frames(1)).bits_per_code
    assert again == pytest.approx(summary["bits_per_code"], rel=1e-5)


def objective(cache: Path, **training: int) -> PriorObjective:
    tokens = TokenCache.open(cache)
    prior = build_prior({"type": "gpt", "depth": 1, "width": 16, "heads": 2}, tokens.spec)
    return PriorObjective(prior, tokens, PriorTrainingConfig(**training), torch.device("cpu"))


@pytest.mark.parametrize(("given", "scored"), [(0, 5), (3, 4)])
def test_frames_given_in_training_and_in_validation_are_apart(cache: Path, given: int, scored: int) -> None:
    """The loss is of all tokens after the frames given in training, the scores, those of the baselines too, of all
    after the frames given in validation.
    """
    tested = objective(cache, given_frames=given, validation_given_frames=scored, validation_clips=3)
    rows = TokenCache.open(cache).rows("train")[:5]
    batch = tested.batch(rows, np.arange(5))
    loss = tested.losses("prior", batch, SampleRandom(0, np.arange(5), torch.device("cpu")))["nats_per_code"]
    loss.backward()
    nats = -tested.prior.log_prob(batch, torch.zeros(5, STEPS * 6, dtype=torch.bool)).view(5, STEPS, 6)
    assert float(loss.detach()) == pytest.approx(float(nats[:, given:].detach().mean()), rel=1e-5)

    scores = tested.validate([tested.score(part, 2) for part in range(2)])
    codes = torch.from_numpy(TokenCache.open(cache).read(tested.held_out)["video"]).long()
    nats = -tested.prior.log_prob({"video": codes}, torch.zeros(3, STEPS * 6, dtype=torch.bool)).view(3, STEPS, 6)
    counts = np.bincount(TokenCache.open(cache).read(tested.rows)["video"].ravel(), minlength=K)
    unigram = np.log2((counts + 1) / (counts + 1).sum())[codes[:, scored:].numpy()]
    assert scores["given_frames"] == scored
    assert scores["bits_per_code"] == pytest.approx(float(nats[:, scored:].detach().mean()) / np.log(2), rel=1e-4)
    assert scores["bits_per_code_unigram"] == pytest.approx(-unigram.mean(), rel=1e-3)


def test_first_frames_that_were_given_in_training_are_not_scored(cache: Path) -> None:
    assert [objective(cache, given_frames=given).clips.given_frames for given in (0, 1, 3)] == [1, 1, 3]
    with pytest.raises(ConfigError, match=r"validation_given_frames \(=2\) must be at least given_frames \(=3\)"):
        objective(cache, given_frames=3, validation_given_frames=2)


def test_first_frames_that_were_given_in_training_are_not_sampled(cache: Path, tmp_path: Path) -> None:
    """Nor the first frames of later windows, beyond the trained length."""
    for given in (0, 3):
        settings = [*SETTINGS, f"training.given_frames={given}"]
        train(cache, tmp_path / str(given), steps=1, assignments=settings)

    def sampled(prior: str, **flags: int) -> None:
        request = SampleRequest(prior=[str(tmp_path / prior)], cache=cache, out=tmp_path / f"{prior}-{flags}", **flags)
        sample.run(dataclasses.replace(request, num=1))

    sampled("0", given_frames=0)
    sampled("0", given_frames=0, frames=9, window_stride=6)
    sampled("3", given_frames=3)
    sampled("3", given_frames=3, frames=9, window_stride=4)
    with pytest.raises(ConfigError, match=r"--given-frames \(=2\), but the prior of 'video' was trained with 3 given"):
        sampled("3", given_frames=2)
    with pytest.raises(ConfigError, match=r"--window-stride \(=5\) leaves 2 frames given in later windows"):
        sampled("3", given_frames=3, frames=12, window_stride=5)


@pytest.mark.parametrize("setting", ["given_frames", "validation_given_frames"])
def test_given_frames_must_leave_something_to_predict(cache: Path, setting: str) -> None:
    for frames, message in ((STEPS, "leaves nothing to predict"), (STEPS + 1, "must be between 0 and")):
        with pytest.raises(ConfigError, match=rf"training\.{setting}.*{message}"):
            objective(cache, **{setting: frames})


def test_scores_of_few_clips_say_so(tmp_path: Path, cache: Path) -> None:
    settings = [*SETTINGS, "training.validation_clips=3"]
    summary = train(cache, tmp_path / "run", steps=1, assignments=settings)
    videos = len(set(TokenCache.open(cache).source_ids(TokenCache.open(cache).rows("validation")[:3])))
    assert (summary["held_out_clips"], summary["held_out_videos"]) == (3, videos)
    assert summary["alarms"][0].startswith(f"the scores are of only 3 held-out clips of {videos} video")


def test_a_resumed_run_exports_the_same_bytes(tmp_path: Path, cache: Path) -> None:
    """With dropout. Killing is tested with the training loop, here a real prior."""
    train(cache, tmp_path / "reference")
    train(cache, tmp_path / "resumed", resume=str(tmp_path / "reference/checkpoints/step_00000004"))
    reference, resumed = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("reference", "resumed"))
    assert reference == resumed


def test_a_run_that_ran_out_of_memory_continues_with_recomputation(tmp_path: Path, cache: Path) -> None:
    train(cache, tmp_path / "reference")
    train(cache, tmp_path / "resumed", steps=4)
    train(cache, tmp_path / "resumed", assignments=[*SETTINGS, "training.recompute_activations=true"])
    weights, others = (load_file(tmp_path / run / "model.safetensors") for run in ("reference", "resumed"))
    torch.testing.assert_close(weights, others, rtol=0, atol=1e-5)


def test_the_run_folder_holds_settings_metrics_and_samples_of_held_out_clips(tmp_path: Path, cache: Path) -> None:
    train(cache, tmp_path / "run", seed=11)
    config = json.loads((tmp_path / "run/run.json").read_text())["config"]
    assert config["training"]["seed"] == 11
    assert config["training"]["betas"] == [0.9, 0.99], "defaults are resolved too"
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [line["step"] for line in lines if "validation/bits_per_code" in line] == [4, 8, 9]
    for split in ("train", "validation"):
        both = [
            (line[f"{split}/bits_per_code"], line[f"{split}/nats_per_code"])
            for line in lines
            if f"{split}/nats_per_code" in line
        ]
        assert len(both) >= 3
        assert all(nats == pytest.approx(bits * np.log(2)) for bits, nats in both)
    bits = {line["step"]: line["validation/bits_per_code"] for line in lines if "validation/bits_per_code" in line}
    best = Prior.from_pretrained(tmp_path / "run/best").about
    assert (best["scores"]["bits_per_code"], best["steps"]) == min((score, step) for step, score in bits.items())
    samples, original = TokenCache.open(tmp_path / "run/samples/step_00000008"), TokenCache.open(cache)
    held_out = original.rows("validation")[: len(samples.rows())]
    sampled, given = samples.read(samples.rows())["video"], original.read(held_out)["video"]
    assert np.array_equal(sampled[:, 0], given[:, 0])
    assert sampled.shape == given.shape


def test_tokens_of_another_tokenizer_are_refused(tmp_path: Path, cache: Path) -> None:
    train(cache, tmp_path / "run", steps=2)
    other = make_cache(tmp_path / "other.tokens", seed=5)
    with pytest.raises(CheckpointError, match=r"started on other data \(cache .* of the tokenizer foreign-"):
        train(other, tmp_path / "run", steps=2)


def test_a_damaged_shard_stops_training_with_its_file_and_rows(tmp_path: Path, cache: Path) -> None:
    shards = [path for path in (cache / "streams/video/c").rglob("*") if path.is_file()]
    for path in shards:
        content = bytearray(path.read_bytes())
        content[7] ^= 1
        path.write_bytes(content)
    with pytest.raises(CacheError, match=r"streams/video/c/\d+.*row"):
        train(cache, tmp_path / "run")
    shards[0].unlink()
    with pytest.raises(CacheError, match=r"rows \d+ to \d+\): is missing"):
        train(cache, tmp_path / "run")


def test_a_new_run_starts_with_the_weights_of_a_saved_prior(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On tokens of another tokenizer, with a learning rate that changes nothing: the scores are those of the saved
    prior. Its settings are the default.
    """
    train(cache, tmp_path / "run", steps=20)
    saved = Prior.from_pretrained(tmp_path / "run")
    other = make_cache(tmp_path / "other.tokens", seed=5)
    settings = ["training={learning_rate: 1.0e-12, batch: 7}", "training.ema_decay=0.5"]
    flags = {"assignments": settings, "init_from": str(tmp_path / "run")}
    summary = train(other, tmp_path / "tuned", steps=2, **flags)
    tokens = TokenCache.open(other)
    codes = torch.from_numpy(tokens.read(tokens.rows("validation"))["video"]).long()
    before = bits_per_code(saved, [{"video": codes}], saved.given_frames(1)).bits_per_code
    assert summary["bits_per_code"] == pytest.approx(before, abs=1e-5)
    checkpoint = read_checkpoint(tmp_path / "tuned/checkpoints/step_00000002")
    steps = {float(value) for name, value in checkpoint.tensors["optimizer_prior"].items() if name.endswith("/step")}
    assert steps == {2.0}, "a new optimizer"
    assert summary["init_from"]["weights"] == saved.weights_fingerprint
    assert "it was trained on tokens of another tokenizer (foreign-" in summary["init_from"]["differs"][0]
    assert summary["init_from"]["differs"][0] in caplog.text
    tuned = Prior.from_pretrained(tmp_path / "tuned")
    assert tuned.about["initialised_from"] == saved.weights_fingerprint
    assert tuned.code_fingerprint == tokens.code_fingerprint
    assert train(other, tmp_path / "tuned", steps=3, **flags)["clips"] == 7, "resumed, not started again"
    with pytest.raises(CheckpointError, match=r"with initialised_from = '\w+', not None \(the fingerprint"):
        train(other, tmp_path / "tuned", steps=3, assignments=[*SETTINGS[:1], *settings])


def test_a_saved_prior_that_does_not_fit_is_refused_with_all_that_differs(tmp_path: Path, cache: Path) -> None:
    train(cache, tmp_path / "run", steps=1)
    flags: dict[str, Any] = {"init_from": str(tmp_path / "run"), "steps": 1}
    wider = [*SETTINGS, "prior.width=32", "prior.dropout=0.2"]
    tensors = r"nothing is loaded in part: .* is \[.*16.*\], here \[.*32.*\], .* and \d+ more"
    settings = r"prior\.dropout is 0\.1, here 0\.2; prior\.width is 16, here 32$"
    with pytest.raises(ConfigError, match=f"{tensors}.*{settings}"):
        train(cache, tmp_path / "wider", assignments=wider, **flags)
    assert not (tmp_path / "wider").exists()
    with pytest.raises(ConfigError, match="is a gpt, and the settings describe a subscale-transformer"):
        train(cache, tmp_path / "other", assignments=["prior={type: subscale-transformer}"], **flags)
    (tmp_path / "run/config.json").write_text('{"format_version": 1, "kind": "tokenizer"}')
    with pytest.raises(HubError, match="expected a saved prior, got a saved tokenizer"):
        train(cache, tmp_path / "other", **flags)
    with pytest.raises(ConfigError, match=r"--revision \(=main\) is that of --init-from"):
        TrainPriorRequest(cache=cache, out=tmp_path / "other", revision="main")


def test_what_differs_without_a_change_of_shapes_is_told(tmp_path: Path, cache: Path) -> None:
    train(cache, tmp_path / "run", steps=1)
    settings = [*SETTINGS[1:], "prior.dropout=0", "prior.heads=4"]
    summary = train(cache, tmp_path / "tuned", steps=1, assignments=settings, init_from=str(tmp_path / "run"))
    assert summary["init_from"]["differs"] == [
        "prior.dropout was 0.1 there, and is 0.0 here",
        "prior.heads was 2 there, and is 4 here",
    ]


def test_a_dry_run_estimates_and_writes_nothing(tmp_path: Path, cache: Path) -> None:
    estimate = train(cache, tmp_path / "run", steps=1000, dry_run=True)
    assert estimate["clips"] == 6000
    assert estimate["hours"] == pytest.approx(estimate["seconds_per_step"] * 1000 / 3600, abs=0.001)
    assert not (tmp_path / "run").exists()


def test_a_misspelt_field_gets_the_nearest_one(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.lerning_rate: unknown key; did you mean 'learning_rate'"):
        train_prior.run(
            TrainPriorRequest(assignments=[*SETTINGS, "training.lerning_rate=1"], cache=cache, out=tmp_path / "run")
        )


def test_a_counted_prior_is_refused(tmp_path: Path, cache: Path) -> None:
    settings = [*SETTINGS[1:], "prior={type: unigram}"]
    with pytest.raises(ConfigError, match=r"prior\.type \(=unigram\) has no weights to train"):
        train_prior.run(TrainPriorRequest(assignments=settings, cache=cache, out=tmp_path / "run", device="cpu"))
