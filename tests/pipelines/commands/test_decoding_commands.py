"""sample, decode, generate and reconstruct with untrained models: their output equals that of their parts."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.pixels import to_frames
from tokenreel.data.spec import Framing
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.data.video.writer import write_video
from tokenreel.errors import CacheError, ConfigError, DataError, UserError
from tokenreel.pipelines.commands import decode, generate, reconstruct, sample, tokenize_dataset
from tokenreel.pipelines.generation import cascade
from tokenreel.pipelines.generation.given_frames import first_frames
from tokenreel.pipelines.requests.decoding import DecodeRequest, ReconstructRequest
from tokenreel.pipelines.requests.generation import GenerateRequest, SampleRequest
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.priors.base import build_prior
from tokenreel.testing.tokenizers import spread_codes
from tokenreel.tokenizers.base import VideoTokenizer, build_tokenizer

T, SIZE = 5, 16  # frames of a clip, pixels
DATA = f"tabletop:?videos=7&frames=11&size={SIZE}"
TOKENIZER = {"type": "frame-vqvae", "hidden": 8, "residual": 4, "blocks": 1, "downsamplings": 2, "latent": 6}
QUANTIZER = {"type": "vq", "codebook_size": 13, "init": "uniform"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tokenizer, other (another tokenizer), cache, prior."""
    root = tmp_path_factory.mktemp("stages")
    for name, seed in (("tokenizer", 3), ("other", 5)):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer({**TOKENIZER, "quantizer": QUANTIZER}, T, Framing(SIZE, SIZE))
        spread_codes(tokenizer).save_pretrained(root / name)
    tokenize_dataset.run(TokenizeRequest(tokenizer=str(root / "tokenizer"), data=DATA, out=root / "cache"))
    cache = TokenCache.open(root / "cache")
    prior = build_prior({"type": "gpt", "depth": 1, "width": 16, "heads": 2}, cache.spec)
    prior.code_fingerprint = cache.code_fingerprint
    prior.save_pretrained(root / "prior")
    return root


def sample_tokens(folder: Path, out: Path, **flags: object) -> Path:
    settings = {"num": 3, "given_frames": 2, "seed": 7, "batch": 2} | flags
    sample.run(SampleRequest(prior=[str(folder / "prior")], cache=folder / "cache", out=out, **settings))
    return out


def codes_of(path: Path) -> np.ndarray:
    cache = TokenCache.open(path)
    return cache.read(cache.rows())["video"]


def test_samples_begin_with_the_given_frames_and_do_not_depend_on_the_batch(folder: Path, tmp_path: Path) -> None:
    sampled = codes_of(sample_tokens(folder, tmp_path / "a"))
    cache = TokenCache.open(folder / "cache")
    rows = [source["row"] for source in TokenCache.open(tmp_path / "a").plan["videos"]]
    given = cache.read(np.array(rows))["video"]
    assert np.array_equal(sampled[:, :2], given[:, :2])
    assert (sampled[:, 2:] != given[:, 2:]).any()
    assert np.array_equal(sampled, codes_of(sample_tokens(folder, tmp_path / "b", batch=3, speculate=4)))
    assert not np.array_equal(sampled, codes_of(sample_tokens(folder, tmp_path / "c", seed=8)))


def test_samples_of_one_start_differ_and_may_be_longer_than_the_clip(folder: Path, tmp_path: Path) -> None:
    sampled = codes_of(sample_tokens(folder, tmp_path / "long", num_clips=1, frames=13))
    assert sampled.shape[1] == 13
    assert (sampled[0, :2] == sampled[1, :2]).all()
    assert (sampled[0] != sampled[1]).any()


@pytest.mark.parametrize("flags", [{"given_frames": T + 1}, {"given_frames": 3, "frames": 2}, {"temperature": 0.0}])
def test_values_out_of_range_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, flags: dict[str, object]
) -> None:
    with pytest.raises(ConfigError):
        sample_tokens(folder, tmp_path / "out", **flags)
    assert not (tmp_path / "out").exists()


def test_decoded_files_equal_the_tokenizers_own_decoding(folder: Path, tmp_path: Path) -> None:
    samples = sample_tokens(folder, tmp_path / "samples", frames=13)
    decode.run(
        DecodeRequest(tokens=samples, tokenizer=str(folder / "tokenizer"), out=tmp_path / "npy", format="npy", batch=2)
    )
    model = VideoTokenizer.from_pretrained(folder / "tokenizer").freeze()
    with torch.no_grad():
        decoded = to_frames(model.decode({"video": torch.from_numpy(codes_of(samples).astype(np.int64))}))
    for row, expected in enumerate(decoded):
        written = np.load(tmp_path / "npy" / f"{row:06d}.npy")
        assert np.abs(written.astype(int) - expected).max() <= 1, "pieces and batches may round differently"


def test_tokens_of_another_tokenizer_are_refused_naming_both_fingerprints(folder: Path, tmp_path: Path) -> None:
    other = str(folder / "other")
    with pytest.raises(CacheError, match=VideoTokenizer.from_pretrained(other).code_fingerprint):
        decode.run(DecodeRequest(tokens=folder / "cache", tokenizer=other, out=tmp_path / "out"))
    with pytest.raises(CacheError, match=r"--tokenizer .*other and the prior of video belong to different tokenizers"):
        generate.run(
            GenerateRequest(
                prior=[str(folder / "prior")],
                tokenizer=other,
                video=video_file(tmp_path),
                out=tmp_path / "out",
                num=1,
                given_frames=1,
                seed=0,
            )
        )
    tokenize_dataset.run(TokenizeRequest(tokenizer=other, data=DATA, out=tmp_path / "cache"))
    with pytest.raises(CacheError, match=r"--cache .*cache and the prior of video belong to different tokenizers"):
        sample.run(
            SampleRequest(
                prior=[str(folder / "prior")],
                cache=tmp_path / "cache",
                out=tmp_path / "out",
                num=1,
                given_frames=1,
                seed=0,
            )
        )


def video_file(folder: Path) -> Path:
    write_video(folder / "clip.npy", tabletop_clip(TabletopConfig(SIZE, SIZE, frames=4), 0).frames, 10.0)
    return folder / "clip.npy"


def test_generate_begins_with_the_reconstructed_frames_of_the_video(folder: Path, tmp_path: Path) -> None:
    video = video_file(tmp_path)
    models = {"prior": [str(folder / "prior")], "tokenizer": str(folder / "tokenizer")}
    flags = {"num": 2, "given_frames": 3, "seed": 0}
    generate.run(GenerateRequest(**models, video=video, out=tmp_path / "out", format="npy", **flags))
    model = VideoTokenizer.from_pretrained(folder / "tokenizer").freeze()
    clips = [np.load(tmp_path / "out" / f"{i:06d}.npy") for i in range(2)]
    assert clips[0].shape == (T, SIZE, SIZE, 3)
    codes = model.encode(torch.from_numpy(np.load(video)[:3]).permute(3, 0, 1, 2)[None].float() / 127.5 - 1)
    expected = to_frames(model.decode(codes))[0]
    assert np.abs(clips[0][:3].astype(int) - expected).max() <= 1
    assert np.array_equal(clips[0][:3], clips[1][:3])
    with pytest.raises(DataError, match="has 4 frames, but 5 are needed"):
        generate.run(GenerateRequest(**models, video=video, out=tmp_path / "no", **(flags | {"given_frames": 5})))


def test_the_python_example_of_the_readme_works(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "demo").symlink_to(folder)
    write_video(tmp_path / "start.mp4", tabletop_clip(TabletopConfig(SIZE, SIZE, frames=4), 0).frames, 10.0)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["start"].shape == (1, SIZE, SIZE, 3)
    assert names["video"].shape == (1, 24, SIZE, SIZE, 3)


def test_reconstruct_writes_originals_and_reconstructions_and_scores_them(folder: Path, tmp_path: Path) -> None:
    summary = reconstruct.run(
        ReconstructRequest(tokenizer=str(folder / "tokenizer"), data=DATA, out=tmp_path / "out", num=2)
    )
    for name, width in (("original", SIZE), ("reconstructed", SIZE), ("side_by_side", 2 * SIZE + 2)):
        files = sorted((tmp_path / "out" / name).iterdir())
        assert len(files) == 2
        assert imageio.imread(files[0], plugin="pyav").shape == (T, SIZE, width, 3)
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["psnr"] == summary["psnr"]
    usage = scores["codebook_usage"]["video"][0]
    assert 0 < usage["used"] <= 1
    assert usage["tokens_counted"] == summary["clips"] * T * 16
    assert scores["compression"] == pytest.approx(1 - 16 * math.log2(13) / (16 * 16 * 24), abs=1e-4)


@pytest.mark.parametrize("name", ["one.mp4", "two.mp4", "three.mp4"])
def test_reconstruct_takes_a_single_video_whatever_its_split(folder: Path, tmp_path: Path, name: str) -> None:
    video = tmp_path / name
    write_video(video, tabletop_clip(TabletopConfig(SIZE, SIZE, T), 0).frames, 10)
    tokenizer = str(folder / "tokenizer")
    summary = reconstruct.run(ReconstructRequest(tokenizer=tokenizer, data=str(video), out=tmp_path / "out"))
    assert (summary["clips"], summary["split"]) == (1, "all")
    with pytest.raises(DataError, match=r"--split validation: .* has no such clip"):
        reconstruct.run(
            ReconstructRequest(tokenizer=tokenizer, data=str(video), out=tmp_path / "no", split="validation")
        )


def test_reconstruct_names_unreadable_videos(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "videos" / name, tabletop_clip(TabletopConfig(SIZE, SIZE, T), 0).frames, 10)
    (tmp_path / "videos" / "zero.mp4").write_bytes(b"")
    summary = reconstruct.run(
        ReconstructRequest(
            tokenizer=str(folder / "tokenizer"), data=str(tmp_path / "videos"), out=tmp_path / "out", num=1
        )
    )
    assert summary["quarantined_videos"] == ["zero.mp4: unreadable (the file is empty)"]
    assert summary["quarantined"] == 1


def test_reconstruct_keeps_probes_beside_out_for_the_next_call(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "videos" / name, tabletop_clip(TabletopConfig(SIZE, SIZE, T), 0).frames, 10)

    def kept() -> dict[str, bytes]:
        data, out = str(tmp_path / "videos"), tmp_path / "out"
        reconstruct.run(ReconstructRequest(tokenizer=str(folder / "tokenizer"), data=data, out=out, num=1))
        return {file.name: file.read_bytes() for file in (tmp_path / "out.probes").glob("*")}

    first = kept()
    assert first
    shutil.rmtree(tmp_path / "out")
    assert kept() == first  # a process that probed again would add a file of its own


@pytest.mark.parametrize(("name", "problem"), [("", "is a folder"), ("zero.mp4", "unreadable: the file is empty")])
def test_generate_names_a_file_that_is_not_a_video(folder: Path, tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "zero.mp4").write_bytes(b"")
    tokenizer = VideoTokenizer.from_pretrained(folder / "tokenizer")
    with pytest.raises(DataError, match=f"--video {tmp_path / name} ?:? ?{problem}"):
        first_frames(tokenizer.spec.framing, tmp_path / name, 1)


@pytest.mark.parametrize(("given", "frames"), [(0, None), (2, None), (2, 3), (1, 13)])
def test_progress_of_sampling_ends_at_its_total(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: int, frames: int | None
) -> None:
    """For clips, parts of clips and videos of several windows."""
    totals = []
    count = cascade._tokens_to_sample
    monkeypatch.setattr(cascade, "_tokens_to_sample", lambda *arguments: totals.append(count(*arguments)) or totals[0])
    flags: dict[str, Any] = {"num": 3, "given_frames": given, "frames": frames, "batch": 2}
    prior = [str(folder / "prior")]
    summary = sample.run(SampleRequest(prior=prior, cache=folder / "cache", out=tmp_path / "a", **flags))
    assert summary["tokens_sampled"] == 3 * totals[0] == 3 * ((frames or T) - given) * 16


def test_a_folder_that_is_not_empty_is_never_written_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    for command in (
        lambda: sample_tokens(folder, tmp_path),
        lambda: decode.run(DecodeRequest(tokens=folder / "cache", tokenizer=str(folder / "tokenizer"), out=tmp_path)),
        lambda: reconstruct.run(
            ReconstructRequest(tokenizer=str(folder / "tokenizer"), data=DATA, out=tmp_path, num=1)
        ),
    ):
        with pytest.raises(UserError, match="already exists and is not empty"):
            command()
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
