"""decode, reconstruct and generate with context: true frames are the right ones, and chunks and batches change nothing.

The models are untrained, but their flow is not zero, so that every frame of context has an effect.
"""

from __future__ import annotations

import dataclasses
import re
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.pixels import to_frames, to_model
from tokenreel.data.spec import Framing
from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.data.video.writer import write_video
from tokenreel.errors import ConfigError, UserError
from tokenreel.pipelines.cli.program import run_command
from tokenreel.pipelines.commands import decode, generate, reconstruct, sample, tokenize_dataset, train_prior
from tokenreel.pipelines.common.plans import plan_of
from tokenreel.pipelines.decoding import tokens_to_video
from tokenreel.pipelines.decoding.reconstruction import data_config_of
from tokenreel.pipelines.decoding.reconstruction import reconstruct as reconstruct_clips
from tokenreel.pipelines.decoding.true_frames import ClipPosition, clip_positions
from tokenreel.pipelines.generation.given_frames import end_frame
from tokenreel.pipelines.requests.decoding import DecodeRequest, ReconstructRequest
from tokenreel.pipelines.requests.generation import GenerateRequest, SampleRequest
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.requests.training import TrainPriorRequest
from tokenreel.priors.base import build_prior
from tokenreel.testing.tokenizers import spread_codes
from tokenreel.tokenizers.base import VideoTokenizer, build_tokenizer
from tokenreel.tokenizers.context_autoencoder import ContextAutoencoder

T, SIZE, VIDEO_FRAMES = 7, 16, 23  # frames of a clip, pixels, frames of a video
DATA = f"tabletop:?videos=3&frames={VIDEO_FRAMES}&size={SIZE}"
QUANTIZER = {"type": "vq", "codebook_size": 13, "commitment": 0.25, "init": "kmeans"}
TOKENIZER: dict[str, Any] = {
    "type": "context-autoencoder", "quantizer": QUANTIZER, "width": 5, "multipliers": [1, 2, 3], "latent": 6,
    "flow": {"widths": [7, 5]}, "context": 3, "autoregressive_frames": 3,
}  # fmt: skip
PLAIN = {"type": "frame-vqvae", "hidden": 8, "residual": 4, "blocks": 1, "downsamplings": 2, "latent": 6}


def video_of(index: int) -> np.ndarray:
    """uint8 [VIDEO_FRAMES, H, W, 3]: a video of DATA."""
    return tabletop_clip(TabletopConfig(SIZE, SIZE, frames=VIDEO_FRAMES), index).frames


def small_tokenizer(**fields: Any) -> VideoTokenizer:
    """A tokenizer with codebooks initialised from data and flow heads that are not zero."""
    torch.manual_seed(5)
    tokenizer = build_tokenizer({**TOKENIZER, **fields}, T, Framing(SIZE, SIZE))
    assert isinstance(tokenizer, ContextAutoencoder)
    for level in tokenizer.decoder.flow or ():
        for part in (level.matching, level.subpixel):
            torch.nn.init.normal_(part.head.weight, std=0.3)
    with torch.no_grad():
        tokenizer(to_model(np.stack([video_of(i)[:T] for i in range(5)])))
    return tokenizer


@dataclass(frozen=True)
class Folder:
    """Contains `tokenizer`, and `cache`, its cache of DATA."""

    root: Path
    model: VideoTokenizer
    codes: np.ndarray  # [rows, T, h, w, q]
    clips: np.ndarray  # uint8 [rows, T, H, W, 3]: the original clips

    def decode(self, out: Path, tokens: str = "cache", **flags: Any) -> np.ndarray:
        """uint8 [rows, T, H, W, 3]"""
        paths = {"tokens": self.root / tokens, "tokenizer": str(self.root / "tokenizer"), "out": out, "format": "npy"}
        decode.run(DecodeRequest(**(paths | flags)))
        return np.stack([np.load(path) for path in sorted(out.iterdir())])

    @torch.no_grad()
    def expected(self, context: int | None, known: np.ndarray | None, end: np.ndarray | None) -> np.ndarray:
        """The tokenizer's own decoding with given frames [rows, n, H, W, 3] and end frames [rows, H, W, 3]."""
        count = 0 if known is None else known.shape[1]
        context_buffer = self.model.new_context_buffer(
            context,
            None if known is None else to_model(known),
            None if end is None else to_model(end[:, None])[:, :, 0],
        )
        codes = torch.from_numpy(self.codes[:, count:].astype(np.int64))
        decoded = to_frames(self.model.decode({"video": codes}, context_buffer))
        return decoded if known is None else np.concatenate([known, decoded], axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    root = tmp_path_factory.mktemp("context")
    small_tokenizer().save_pretrained(root / "tokenizer")
    tokenize_dataset.run(TokenizeRequest(tokenizer=str(root / "tokenizer"), data=DATA, out=root / "cache"))
    cache = TokenCache.open(root / "cache")
    positions = clip_positions(cache, cache.rows())
    assert sorted({position.first for position in positions}) == [0, 7, 14]
    clips = np.stack([video_of(int(position.video))[position.first : position.first + T] for position in positions])
    model = VideoTokenizer.from_pretrained(root / "tokenizer").freeze()
    return Folder(root, model, cache.read(cache.rows())["video"], clips)


def close(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal up to one of 255 levels, as the order of sums may depend on the batch."""
    return one.shape == other.shape and bool(np.abs(one.astype(int) - other).max() <= 1)


@pytest.mark.parametrize(("context", "given"), [(None, 1), (2, 3), (6, 2), (0, 1)])
def test_each_row_begins_with_the_true_frames_of_its_own_clip(
    folder: Folder, tmp_path: Path, context: int | None, given: int
) -> None:
    decoded = folder.decode(tmp_path / "out", context=context, context_video=DATA, given_frames=given, batch=4)
    assert np.array_equal(decoded[:, :given], folder.clips[:, :given])
    assert close(decoded, folder.expected(context, folder.clips[:, :given], None))


def test_without_context_video_the_first_frame_is_decoded_alone(folder: Folder, tmp_path: Path) -> None:
    decoded = folder.decode(tmp_path / "out")
    assert close(decoded, folder.expected(3, None, None))
    assert close(decoded[:, 0], folder.expected(0, None, None)[:, 0])


@torch.no_grad()
def test_context_0_is_frame_by_frame_decoding_by_the_same_weights(folder: Folder, tmp_path: Path) -> None:
    codes = torch.from_numpy(folder.codes.astype(np.int64))
    frames = [to_frames(folder.model.decode({"video": codes[:, step : step + 1]})) for step in range(T)]
    alone = folder.decode(tmp_path / "out", context=0)
    assert close(alone, np.concatenate(frames, axis=1))
    assert not close(alone[:, 1:], folder.expected(None, None, None)[:, 1:])


def test_batches_and_chunks_do_not_change_a_pixel(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"context_video": DATA, "end": DATA, "given_frames": 2}
    decoded = folder.decode(tmp_path / "a", batch=1, **flags)
    assert np.array_equal(decoded, folder.decode(tmp_path / "b", batch=3, **flags))
    monkeypatch.setattr(tokens_to_video, "FRAMES_AT_ONCE", 2)
    assert np.array_equal(decoded, folder.decode(tmp_path / "c", batch=1, **flags))
    assert np.array_equal(decoded, folder.decode(tmp_path / "d", batch=16, **flags))


@pytest.mark.parametrize("name", ["first.png", "first.npy"])
def test_one_image_or_video_serves_all_clips(folder: Folder, tmp_path: Path, name: str) -> None:
    start = video_of(3)[:2]
    write_video(tmp_path / "first.npy", start, 10.0)
    Image.fromarray(start[0]).save(tmp_path / "first.png")
    decoded = folder.decode(tmp_path / "out", context_video=str(tmp_path / name))
    known = np.repeat(start[None, :1], len(folder.codes), axis=0)
    assert np.array_equal(decoded[:, :1], known)
    assert close(decoded, folder.expected(None, known, None))


def test_clips_of_a_single_file_keep_their_positions(folder: Folder, tmp_path: Path) -> None:
    write_video(tmp_path / "long.npy", video_of(2), 10.0)
    stages = {"tokenizer": str(folder.root / "tokenizer"), "data": str(tmp_path / "long.npy")}
    tokenize_dataset.run(TokenizeRequest(**stages, out=tmp_path / "cache"))
    decoded = folder.decode(tmp_path / "out", tmp_path / "cache", context_video=stages["data"])
    assert np.array_equal(decoded[:, 0], video_of(2)[[0, 7, 14]])


def test_an_end_frame_is_one_more_frame_of_context(folder: Folder, tmp_path: Path) -> None:
    """Each clip's last frame from the data; the frame at that position from a video; an image, framed like videos."""
    flags = {"context": 1, "context_video": DATA}
    first, rows = folder.clips[:, :1], len(folder.codes)
    own = folder.decode(tmp_path / "own", **flags, end=DATA)
    assert close(own, folder.expected(1, first, folder.clips[:, -1]))
    write_video(tmp_path / "end.npy", video_of(1)[:T], 10.0)
    Image.fromarray(np.kron(video_of(1)[T - 1], np.ones((2, 2, 1), np.uint8))).save(tmp_path / "end.png")
    expected = folder.expected(1, first, np.repeat(video_of(1)[None, T - 1], rows, axis=0))
    assert close(folder.decode(tmp_path / "video", **flags, end=str(tmp_path / "end.npy")), expected)
    framed = end_frame(folder.model.spec.framing, tmp_path / "end.png", T).frames
    assert framed is not None
    with_image = folder.decode(tmp_path / "image", **flags, end=str(tmp_path / "end.png"))
    assert close(with_image, folder.expected(1, first, np.repeat(framed, rows, axis=0)))
    assert not close(own, folder.decode(tmp_path / "none", **flags))


@pytest.fixture(scope="module")
def prior(folder: Folder) -> str:
    cache = TokenCache.open(folder.root / "cache")
    prior = build_prior({"type": "gpt", "depth": 1, "width": 16, "heads": 2}, cache.spec)
    prior.code_fingerprint = cache.code_fingerprint
    prior.save_pretrained(folder.root / "prior")
    return str(folder.root / "prior")


def test_samples_are_decoded_with_as_many_true_frames_as_they_were_given(
    folder: Folder, tmp_path: Path, prior: str
) -> None:
    settings: dict[str, Any] = {"num": 4, "given_frames": 2, "frames": 9, "seed": 7, "split": None}
    sample.run(SampleRequest(prior=[prior], cache=folder.root / "cache", out=tmp_path / "samples", **settings))
    tokens = TokenCache.open(tmp_path / "samples")
    clips = folder.clips[[source["row"] for source in tokens.plan["videos"]]]
    assert len({position.first for position in clip_positions(tokens, tokens.rows())}) > 1
    decoded = folder.decode(tmp_path / "out", tmp_path / "samples", context_video=DATA)
    assert decoded.shape[1] == 9
    assert np.array_equal(decoded[:, :2], clips[:, :2])
    assert (decoded[:, 2] != clips[:, 2]).any()


@pytest.mark.parametrize("given", [0, 5])
def test_samples_that_were_given_no_or_all_frames_have_no_default_of_true_frames(
    folder: Folder, tmp_path: Path, prior: str, given: int
) -> None:
    settings: dict[str, Any] = {"num": 2, "given_frames": given, "frames": 5, "seed": 7, "split": None}
    sample.run(SampleRequest(prior=[prior], cache=folder.root / "cache", out=tmp_path / "samples", **settings))
    with pytest.raises(ConfigError, match=rf"the samples were given {given} of their 5 frames, so there is no default"):
        folder.decode(tmp_path / "out", tmp_path / "samples", context_video=DATA)
    assert folder.decode(tmp_path / "out", tmp_path / "samples", context_video=DATA, given_frames=1).shape[1] == 5


def test_samples_of_a_training_run_begin_with_the_true_frames_of_their_clips(folder: Folder, tmp_path: Path) -> None:
    model = "prior={type: gpt, depth: 1, width: 16, heads: 2, controls: [end]}"
    training = "training={batch: 2, threads: 1, validation_given_frames: 2, sample_clips: 5, validation_clips: 5}"
    flags = {"cache": folder.root / "cache", "out": tmp_path / "run", "steps": 1, "device": "cpu"}
    train_prior.run(TrainPriorRequest(assignments=[model, training], **flags))
    (path,) = (tmp_path / "run/samples").iterdir()
    samples, cache = TokenCache.open(path), TokenCache.open(folder.root / "cache")
    rows = cache.rows("validation")[:5]
    assert clip_positions(samples, samples.rows()) == clip_positions(cache, rows)
    assert len({position.first for position in clip_positions(cache, rows)}) > 1
    decoded = folder.decode(tmp_path / "out", path, context_video=DATA, end=DATA)
    assert np.array_equal(decoded[:, :2], folder.clips[rows, :2])
    assert samples.provenance["given_controls"] == ["end"]


def test_clips_of_one_frame_have_no_context(folder: Folder) -> None:
    with pytest.raises(ConfigError, match=r"--given-frames \(=1\) must be at most 0: the clips have 1 frame"):
        tokens_to_video.require_context(folder.model, 1, given=1)
    with pytest.raises(ConfigError, match=r"--context \(=1\) must be at most 0: the clips have 1 frame"):
        tokens_to_video.require_context(folder.model, 1, context=1)


def test_a_sample_given_the_end_of_its_clip_is_decoded_with_that_frame(folder: Folder, tmp_path: Path) -> None:
    """Also if it is longer than the clip, whose video has another frame at that position."""
    cache = TokenCache.open(folder.root / "cache")
    prior = build_prior({"type": "gpt", "depth": 1, "width": 16, "heads": 2, "controls": ["end"]}, cache.spec)
    prior.code_fingerprint, prior.trained_without_controls = cache.code_fingerprint, True
    prior.save_pretrained(tmp_path / "prior")
    settings: dict[str, Any] = {
        "num": 2,
        "given_frames": 1,
        "frames": 9,
        "seed": 7,
        "num_clips": 1,
        "split": "validation",
    }
    sample.run(
        SampleRequest(
            prior=[str(tmp_path / "prior")], cache=folder.root / "cache", out=tmp_path / "samples", **settings
        )
    )
    tokens = TokenCache.open(tmp_path / "samples")
    clips = folder.clips[[source["row"] for source in tokens.plan["videos"]]]
    decoded = folder.decode(tmp_path / "out", tmp_path / "samples", end=DATA)
    sampled = dataclasses.replace(folder, codes=tokens.read(tokens.rows())["video"])
    assert close(decoded, sampled.expected(None, None, clips[:, -1]))


def test_a_continued_video_starts_with_its_true_frames(folder: Folder, tmp_path: Path, prior: str) -> None:
    write_video(tmp_path / "start.npy", video_of(4), 10.0)
    models = {"prior": [prior], "tokenizer": str(folder.root / "tokenizer"), "video": tmp_path / "start.npy"}
    generate.run(GenerateRequest(**models, out=tmp_path / "out", format="npy", num=3, given_frames=2, seed=1, batch=2))
    clips = [np.load(path) for path in sorted((tmp_path / "out").iterdir())]
    assert len(clips) == 3
    assert all(np.array_equal(clip[:2], video_of(4)[:2]) for clip in clips)


def test_the_summary_reports_context_and_given_frames(folder: Folder, tmp_path: Path) -> None:
    flags = {"tokens": folder.root / "cache", "tokenizer": str(folder.root / "tokenizer")}
    rows = len(folder.codes)
    summary = decode.run(DecodeRequest(**flags, out=tmp_path / "a", context_video=DATA, given_frames=2, context=4))
    assert (summary["clips"], summary["frames"], summary["given_frames"], summary["context"]) == (rows, rows * T, 2, 4)
    assert summary["frames_per_second"] > 0
    summary = decode.run(DecodeRequest(**flags, out=tmp_path / "b"))
    assert (summary["given_frames"], summary["context"]) == (0, 3)


def test_decoding_with_context_from_the_command_line(folder: Folder, tmp_path: Path) -> None:
    command = [
        "decode",
        "--tokens",
        str(folder.root / "cache"),
        "--tokenizer",
        str(folder.root / "tokenizer"),
        "--quiet",
    ]
    flags = ["--context", "2", "--context-video", DATA, "--given-frames", "2", "--end", DATA, "--format", "npy"]
    assert run_command([*command, *flags, "--out", str(tmp_path / "out")]) == 0
    decoded = np.stack([np.load(path) for path in sorted((tmp_path / "out").iterdir())])
    assert close(decoded, folder.expected(2, folder.clips[:, :2], folder.clips[:, -1]))


OTHER = DATA.replace("videos=3", "videos=2")
SHORT = DATA.replace(f"frames={VIDEO_FRAMES}", "frames=8")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"context": 7}, r"--context \(=7\) must be at most 6: the clips have 7 frames"),
        ({"context": 0, "end": DATA}, r"--end has no effect with --context 0"),
        ({"given_frames": 2}, r"--given-frames \(=2\) counts the frames of --context-video: give that as well"),
        ({"context_video": DATA, "given_frames": 7}, r"--given-frames \(=7\) must be at most 6: the clips have 7"),
        ({"context_video": OTHER}, r"--context-video tabletop:.*none of its 2 videos is '000002'; did you mean '00000"),
        ({"context_video": SHORT, "given_frames": 3}, r"00000.: it has 8 frames, but 1[07] are needed: give a longer"),
        ({"end": SHORT}, r"--end .*: it has 8 frames, but (14|21) are needed"),
        ({"end": "short.npy"}, r"--end short.npy: short: it has 3 frames, but 7 are needed"),
        ({"context_video": "one.png", "given_frames": 2}, r"--context-video one.png: it has 1 frame, but 2 are needed"),
        ({"context_video": "broken.png"}, r"--context-video broken.png: .*not a readable image \(known: PNG"),
        ({"end": "none.png"}, r"none.png: No such file"),
        ({"context_video": "none.mp4"}, r"none.mp4: no such file"),
        ({"context_video": "zero.mp4"}, r"--context-video zero.mp4: unreadable: the file is empty"),
    ],
)  # fmt: skip
def test_missing_true_frames_are_refused_before_anything_is_written(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("short.npy"), video_of(0)[:3], 10.0)
    Image.fromarray(video_of(0)[0]).save("one.png")
    Path("broken.png").write_bytes(b"no picture")
    Path("zero.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=message) as refusal:
        folder.decode(tmp_path / "out", **flags)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("section", "flags", "message"),
    [
        ({**TOKENIZER, "flow": None}, {"context": 2}, r"context \(=2\) must be 0.*built without flow"),
        ({**TOKENIZER, "flow": None}, {"end": DATA}, "without end frame.*built without flow"),
        ({**PLAIN, "quantizer": QUANTIZER}, {"context": 2}, r"context: this tokenizer \(frame-vqvae\) decodes without"),
        ({**PLAIN, "quantizer": QUANTIZER}, {"context_video": DATA}, "decodes without context"),
        ({**PLAIN, "quantizer": QUANTIZER}, {"end": DATA}, "decodes without context"),
    ],
)
def test_tokenizers_without_context_refuse_it(
    tmp_path: Path, section: dict[str, Any], flags: dict[str, Any], message: str
) -> None:
    spread_codes(build_tokenizer(section, T, Framing(SIZE, SIZE))).save_pretrained(tmp_path / "tokenizer")
    stages = {"tokenizer": str(tmp_path / "tokenizer")}
    tokenize_dataset.run(TokenizeRequest(**stages, data=OTHER, out=tmp_path / "cache", allow_collapsed=True))
    with pytest.raises(ConfigError, match=message):
        decode.run(DecodeRequest(tokens=tmp_path / "cache", **stages, out=tmp_path / "out", **flags))
    assert not (tmp_path / "out").exists()
    assert (
        decode.run(DecodeRequest(tokens=tmp_path / "cache", **stages, out=tmp_path / "out", context=0))["context"] == 0
    )


def test_frames_of_another_size_are_refused(folder: Folder) -> None:
    right, wrong = torch.zeros(1, 3, 2, SIZE, SIZE), torch.zeros(1, 3, 2, SIZE, SIZE + 4)
    folder.model.new_context_buffer(2, right, right[:, :, 0])
    with pytest.raises(ConfigError, match=re.escape(f"given (shape (1, 3, 2, {SIZE}, {SIZE + 4})) must be [B, 3, T, ")):
        folder.model.new_context_buffer(2, wrong)
    with pytest.raises(ConfigError, match=r"^end, .* must be \[B, 3, T, "):
        folder.model.new_context_buffer(2, right, wrong[:, :, 0])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.npy"])
def test_memory_does_not_grow_with_the_length_of_a_video(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Counts the decoded frames that are alive at the same time."""
    alive = {"frames": 0, "maximum": 0, "decoded": 0}

    def release(count: int) -> None:
        alive["frames"] -= count

    def counted(video: torch.Tensor) -> np.ndarray:
        array = to_frames(video)
        weakref.finalize(array if array.base is None else array.base, release, count := array.shape[1])
        alive["frames"] += count
        alive["decoded"] += count
        alive["maximum"] = max(alive["maximum"], alive["frames"])
        return array

    def max_alive(frames: int) -> int:
        alive.update(maximum=0, decoded=0)
        codes = np.resize(folder.codes[:1], (1, frames, *folder.codes.shape[2:]))
        chunks = tokens_to_video.decode_pieces(folder.model, {"video": codes}, context=2)
        tokens_to_video.write_clips([tmp_path / f"{frames}-{name}"], chunks, 10.0)
        assert (alive["decoded"], alive["frames"]) == (frames, 0)
        return alive["maximum"]

    monkeypatch.setattr(tokens_to_video, "to_frames", counted)
    monkeypatch.setattr(tokens_to_video, "FRAMES_AT_ONCE", 8)
    assert 0 < max_alive(64) == max_alive(512) <= 16


def test_reconstruct_does_not_score_given_frames(folder: Folder, tmp_path: Path) -> None:
    tokenizer = str(folder.root / "tokenizer")
    summary = reconstruct.run(
        ReconstructRequest(tokenizer=tokenizer, data=DATA, out=tmp_path / "out", num=2, context=2, given_frames=3)
    )
    assert (summary["context"], summary["given_frames"]) == (2, 3)
    with DecodePool(DATA, workers=0) as pool:
        config = data_config_of(folder.model)
        plan = plan_of(pool, config)
        rows = plan.rows("validation")[:2]
        clips = list(reconstruct_clips(folder.model, plan, pool, rows, context=2, given=3))
    for clip in clips:
        assert np.array_equal(clip.decoded[:3], clip.original[:3])
        assert close(clip.decoded[None], folder.expected(2, folder.clips[:, :3], None)[clip.row][None])
    pairs = [(clip.original[3:].astype(float), clip.decoded[3:]) for clip in clips]
    errors = [np.square(one - other).mean(axis=(1, 2, 3)) for one, other in pairs]
    assert summary["psnr"] == pytest.approx(10 * np.log10(255**2 / np.concatenate(errors)).mean(), abs=1e-3)
    with pytest.raises(ConfigError, match=r"--given-frames \(=7\) must be at most 6"):
        reconstruct.run(ReconstructRequest(tokenizer=tokenizer, data=DATA, out=tmp_path / "no", num=1, given_frames=7))
    with pytest.raises(ConfigError, match=r"--context \(=7\) must be at most 6"):
        reconstruct.run(ReconstructRequest(tokenizer=tokenizer, data=DATA, out=tmp_path / "no", num=1, context=7))


def test_the_position_of_a_clip_is_that_in_its_cache(folder: Folder) -> None:
    cache = TokenCache.open(folder.root / "cache")
    assert clip_positions(cache, cache.rows()[[1, 5]]) == [ClipPosition("000000", 7), ClipPosition("000001", 14)]
