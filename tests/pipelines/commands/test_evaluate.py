"""`evaluate` against the definition of bits/code, clip by clip, and its parts against one run."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_foreign_tokens
from tokenreel.data.spec import Framing
from tokenreel.errors import CacheError, ConfigError, DataError
from tokenreel.pipelines.commands import evaluate
from tokenreel.pipelines.requests.training import EvaluateRequest
from tokenreel.priors.base import Prior, build_prior
from tokenreel.priors.ngram.prior import UnigramConfig, UnigramPrior
from tokenreel.testing.priors import scramble

K, CLIPS, STEPS = 5, 41, 3  # codebook size, clips, frames of a clip
GPT = {"type": "gpt", "depth": 1, "width": 16, "heads": 2}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    indices = np.random.default_rng(7).integers(0, K, (CLIPS, STEPS, 2, 3))
    write_foreign_tokens(tmp_path / "tokens.zarr", indices, Framing(8, 12), codebook_size=K)
    return tmp_path / "tokens.zarr"


@pytest.fixture
def prior(cache: Path, tmp_path: Path) -> Path:
    tokens = TokenCache.open(cache)
    prior = build_prior(GPT, tokens.spec)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    prior.code_fingerprint = tokens.code_fingerprint
    prior.save_pretrained(tmp_path / "prior")
    return tmp_path / "prior"


def bits_by_hand(prior: Path, cache: Path, split: str, given_frames: int) -> np.ndarray:
    """bits/code of each clip, one at a time."""
    model, tokens = Prior.from_pretrained(prior), TokenCache.open(cache)
    found = []
    for row in tokens.rows(split):
        clip = {"video": torch.from_numpy(tokens.read(np.array([row]))["video"]).long()}
        given = torch.arange(STEPS * 6)[None] < given_frames * 6
        found.append(float(model.log_prob(clip, given).detach().sum()) / -math.log(2) / ((STEPS - given_frames) * 6))
    return np.array(found)


@pytest.mark.parametrize(("split", "given_frames"), [("validation", 0), ("train", 2)])
def test_scores_are_means_over_clips(prior: Path, cache: Path, split: str, given_frames: int) -> None:
    found = evaluate.run(EvaluateRequest(prior=str(prior), cache=cache, split=split, given_frames=given_frames))
    expected = bits_by_hand(prior, cache, split, given_frames)
    assert (found["clips"], found["videos"], found["tokens_per_clip"]) == (
        len(expected),
        len(expected),
        (STEPS - given_frames) * 6,
    )
    assert found["bits_per_code"] == pytest.approx(expected.mean(), abs=1e-4)
    assert found["nats_per_code"] == pytest.approx(expected.mean() * np.log(2), abs=1e-4)
    assert found["standard_error"] == pytest.approx(expected.std(ddof=1) / len(expected) ** 0.5, abs=1e-4)
    assert found["bits_per_code_unigram"] == pytest.approx(unigram_bits(cache, split, given_frames), abs=1e-4)


def test_an_end_frame_is_that_of_the_clip_and_is_given(cache: Path, tmp_path: Path) -> None:
    tokens = TokenCache.open(cache)
    prior = scramble(build_prior({**GPT, "controls": ["end"]}, tokens.spec))
    prior.code_fingerprint = tokens.code_fingerprint
    prior.save_pretrained(tmp_path / "prior")
    found = evaluate.run(EvaluateRequest(prior=str(tmp_path / "prior"), cache=cache))
    video = torch.from_numpy(tokens.read(tokens.rows("validation"))["video"]).long()
    clips = {"video": video, "end": video[:, -1:], "end_step": torch.full((len(video), 1, 1, 1, 1), STEPS - 1)}
    with torch.no_grad():
        nats = -prior.log_prob(clips, (torch.arange(STEPS * 6) < 6).expand(len(video), -1))[:, 6:]
    assert found["tokens_per_clip"] == (STEPS - 1) * 6
    assert found["nats_per_code"] == pytest.approx(float(nats.mean()), abs=1e-4)


def test_frames_given_in_training_are_given_and_no_fewer(cache: Path, tmp_path: Path) -> None:
    tokens = TokenCache.open(cache)
    prior = build_prior(GPT, tokens.spec)
    prior.code_fingerprint, prior.trained_given_frames = tokens.code_fingerprint, 2
    prior.save_pretrained(tmp_path / "prior")
    request = EvaluateRequest(prior=str(tmp_path / "prior"), cache=cache)
    assert evaluate.run(request)["given_frames"] == 2
    with pytest.raises(ConfigError, match=r"--given-frames \(=1\), but the prior of 'video' was trained with 2 given"):
        evaluate.run(dataclasses.replace(request, given_frames=1))


def unigram_bits(cache: Path, split: str, given_frames: int) -> float:
    tokens = TokenCache.open(cache)
    counted = UnigramPrior(UnigramConfig(), tokens.spec)
    counted.prepare([{"video": torch.from_numpy(tokens.read(tokens.rows("train"))["video"]).long()}])
    scored = torch.from_numpy(tokens.read(tokens.rows(split))["video"]).long()
    given = (torch.arange(STEPS * 6) < given_frames * 6).expand(len(scored), -1)
    return float(counted.log_prob({"video": scored}, given).sum() / -math.log(2) / (~given).sum())


def test_parts_of_several_machines_are_one_evaluation(prior: Path, cache: Path, tmp_path: Path) -> None:
    settings = {"prior": str(prior), "cache": cache, "split": "train", "num_shards": 3, "out": tmp_path / "scores"}
    missing = [
        evaluate.run(EvaluateRequest(**settings, shard_index=part))["missing_parts"]  # type: ignore[arg-type]
        for part in (2, 0)
    ]
    assert missing == [[0, 1], [1]]
    joined = evaluate.run(EvaluateRequest(**settings, shard_index=1))  # type: ignore[arg-type]
    alone = evaluate.run(EvaluateRequest(prior=str(prior), cache=cache, split="train"))
    assert joined == {**alone, "parts": 3}
    with pytest.raises(DataError, match=r"scores holds parts of another evaluation, see evaluation\.json"):
        evaluate.run(EvaluateRequest(**{**settings, "split": "validation"}))  # type: ignore[arg-type]
    part = tmp_path / "scores/part-0-of-3.npz"
    for damaged in damaged_parts(part.read_bytes()):
        part.write_bytes(damaged)
        with pytest.raises(DataError, match=r"part-0-of-3\.npz is damaged .* remove it, and evaluate that part again"):
            evaluate.run(EvaluateRequest(**settings, shard_index=1))  # type: ignore[arg-type]
    (tmp_path / "scores/evaluation.json").write_text('{"prior": ')
    with pytest.raises(DataError, match=r"evaluation\.json is damaged: .*: give another folder"):
        evaluate.run(EvaluateRequest(**settings, shard_index=0))  # type: ignore[arg-type]


def damaged_parts(intact: bytes) -> Iterator[bytes]:
    """Cut short, no archive, without an array, of other clips, with too few numbers, with numbers of another kind."""
    yield intact[:99]
    yield npy(np.arange(5))
    with np.load(io.BytesIO(intact)) as part:
        arrays = dict(part)
    for name in arrays:
        yield npz({other: values for other, values in arrays.items() if other != name})
    yield npz({**arrays, "rows": arrays["rows"] + 1})
    yield npz({**arrays, "prior": arrays["prior"][1:]})
    yield npz({**arrays, "unigram": arrays["unigram"].astype(str)})


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def test_what_cannot_be_scored_is_refused(prior: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"given frames \(=4\) must be between 0 and the clip's 3"):
        evaluate.run(EvaluateRequest(prior=str(prior), cache=cache, given_frames=4))
    with pytest.raises(DataError, match="nothing to score"):
        evaluate.run(EvaluateRequest(prior=str(prior), cache=cache, given_frames=3))
    with pytest.raises(CacheError, match="has no split 'test'"):
        evaluate.run(EvaluateRequest(prior=str(prior), cache=cache, split="test"))
    with pytest.raises(ConfigError, match=r"--shard-index \(=2\) must be below --num-shards"):
        EvaluateRequest(prior=str(prior), cache=cache, shard_index=2, num_shards=2, out=tmp_path)
    with pytest.raises(ConfigError, match=r"--num-shards \(=42\) must be at most the number of clips"):
        evaluate.run(EvaluateRequest(prior=str(prior), cache=cache, split="train", num_shards=42, out=tmp_path / "x"))
    with pytest.raises(ConfigError, match=r"--num-shards \(=2\) needs --out"):
        EvaluateRequest(prior=str(prior), cache=cache, num_shards=2)
    other = np.random.default_rng(8).integers(0, 3, (11, STEPS, 2, 3))
    write_foreign_tokens(tmp_path / "other.zarr", other, Framing(8, 12), codebook_size=3)
    with pytest.raises(CacheError, match="belong to different tokenizers"):
        evaluate.run(EvaluateRequest(prior=str(prior), cache=tmp_path / "other.zarr"))
